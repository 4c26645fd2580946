/* A definition as a picture: boxes are its states, lines its Next, Choices and Default, dashed lines its Catch.
   Everything is read from the Amazon States Language itself; dagre (dagre.min.js) places the boxes. */

const WIDTH = 120, HEIGHT = 46, MARGIN = 12, CHARACTER = 8.3;

const STYLE = `
.stepgram text{font:600 13px system-ui,sans-serif;fill:var(--ink,#1f2430);text-anchor:middle}
.stepgram .sub{font-weight:400;font-size:12px;fill:var(--dim,#5c6473)}
.stepgram rect{fill:var(--box,#fff);stroke:var(--line,#8a94a5);stroke-width:1.5;rx:9}
.stepgram path{fill:none;stroke:var(--edge,#8a94a5);stroke-width:1.4}
.stepgram .tip{fill:var(--edge,#8a94a5);stroke:none}
.stepgram .catch{stroke-dasharray:3 4;opacity:.45}
.stepgram .taken{stroke-width:2.6;opacity:1;stroke:var(--dim,#5c6473)}
.stepgram .unreached rect{stroke-dasharray:3 3}.stepgram .unreached text{fill:var(--dim,#5c6473)}
.stepgram .succeeded rect{fill:#e3f6e8;stroke:#2f9e57}.stepgram .running rect{fill:#e3eefd;stroke:#2f6fde}
.stepgram .waiting rect{fill:#efe8fd;stroke:#7b4fd6}.stepgram .caught rect{fill:#fdf1da;stroke:#b87a0c}
.stepgram .failed rect{fill:#fde6e6;stroke:#d63b3b}
.stepgram g:is(.succeeded,.running,.waiting,.caught,.failed) text{fill:#1f2430}
.stepgram .chosen rect{stroke-width:3.5}
`;

const SIGNS = {succeeded: "✓", running: "…", waiting: "⏸", caught: "!", failed: "✗"};

const escape = text => String(text).replace(/[&<>"]/g, c => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[c]);

/* What a state's box shows of its visit: `status` as it is drawn. */
export function shown(state, visit) {
  if (!visit) return "unreached";
  if (visit.status === "aborted" || visit.status === "timed out") return "failed";
  // With a heartbeat somebody works who says so; without one the state sleeps until somebody answers.
  const sleeps = String(state.Resource || "").endsWith(".waitForTaskToken") && !state.HeartbeatSeconds;
  if (visit.status === "running" && sleeps) return "waiting";
  return visit.status;
}

/* The edges of a definition: {from, to, kind: "next" | "catch"}, one for each pair. */
export function edges(definition) {
  const found = new Map();
  for (const [from, state] of Object.entries(definition.States)) {
    const next = [state.Next, state.Default, ...(state.Choices || []).map(choice => choice.Next)];
    for (const to of next.filter(Boolean)) found.set(`${from} ${to}`, {from, to, kind: "next"});
    for (const {Next: to} of state.Catch || [])
      if (!found.has(`${from} ${to}`)) found.set(`${from} ${to}`, {from, to, kind: "catch"});
  }
  return [...found.values()];
}

/* The states from the start along Next (a Choice: its Default) to the end. */
export function mainPath(definition) {
  const path = [];
  let name = definition.StartAt;
  while (name && !path.includes(name)) {
    path.push(name);
    const state = definition.States[name];
    name = state.Next || state.Default || ((state.Choices || [])[0] || {}).Next;
  }
  return path;
}

/* For every state the last state of the main path that leads to it without the main path, as an index: where it branches off. */
function branches(path, all) {
  const branch = new Map();
  path.forEach((name, index) => {
    branch.set(name, index);
    const walk = from => all.filter(edge => edge.from === from && !path.includes(edge.to)).forEach(({to}) => {
      if (branch.get(to) !== index) { branch.set(to, index); walk(to); }
    });
    walk(name);
  });
  return branch;
}

/* Boxes are placed by what leads onward, and by one way into each state that only a Catch leads to. Ways back and every
   other Catch are drawn afterwards, beside them, so that the main path stays a straight column. */
function place(definition) {
  const path = mainPath(definition), all = edges(definition), branch = branches(path, all);
  const isBack = ({from, to}) => path.includes(to) && path.indexOf(to) <= branch.get(from) && !(path.includes(from) && path.indexOf(from) < path.indexOf(to));
  const kept = all.filter(edge => edge.kind === "next" && !isBack(edge));
  for (const name of Object.keys(definition.States)) {
    const ways = all.filter(edge => edge.to === name && !isBack(edge));
    if (ways.length && !ways.some(edge => kept.includes(edge)))
      kept.push(ways.reduce((best, way) => branch.get(way.from) >= branch.get(best.from) ? way : best));
  }
  const graph = new dagre.graphlib.Graph().setGraph({rankdir: "TB", align: "UL", nodesep: 14, ranksep: 28, marginx: MARGIN, marginy: MARGIN});
  const width = Math.max(WIDTH, ...Object.keys(definition.States).map(name => name.length * CHARACTER + 24));
  for (const name of [...path, ...Object.keys(definition.States)]) graph.setNode(name, {width, height: HEIGHT});
  const isMain = ({from, to}) => path.includes(from) && path.indexOf(to) === path.indexOf(from) + 1;
  for (const edge of [...kept.filter(isMain), ...kept.filter(other => !isMain(other))])
    graph.setEdge(edge.from, edge.to, {weight: isMain(edge) ? 100 : 1});
  dagre.layout(graph, {disableOptimalOrderHeuristic: true});
  return {graph, isBack};
}

/* A line dagre has placed. */
function placed(points) {
  const at = ({x, y}) => `${x.toFixed(1)},${y.toFixed(1)}`;
  let d = `M${at(points[0])}`;
  for (let n = 1; n < points.length - 1; n++) {
    const end = n === points.length - 2 ? points[n + 1] : {x: (points[n].x + points[n + 1].x) / 2, y: (points[n].y + points[n + 1].y) / 2};
    d += `Q${at(points[n])} ${at(end)}`;
  }
  return points.length === 2 ? d + `L${at(points[1])}` : d;
}

/* A line beside the boxes: within a column on its left; a way back to another column up its right; a Catch down into the top. */
function beside(from, to, back) {
  const at = (...numbers) => numbers.map(number => number.toFixed(1)).join(",");
  const left = from.x - from.width / 2, right = from.x + from.width / 2;
  if (Math.abs(from.x - to.x) < 1) {
    const out = left - 18 - Math.abs(from.y - to.y) / 12;
    return `M${at(left, from.y)}C${at(out, from.y)} ${at(out, to.y)} ${at(left, to.y)}`;
  }
  if (back) {
    const end = to.x + to.width / 2;
    return `M${at(right, from.y)}C${at(right + 46, from.y)} ${at(right + 30, to.y)} ${at(end, to.y)}`;
  }
  const side = from.x < to.x ? right : left;
  return `M${at(side, from.y)}C${at(to.x, from.y)} ${at(to.x, from.y)} ${at(to.x, to.y - to.height / 2)}`;
}

/* The SVG of a definition (its JSON text), coloured by the visits of one attempt (states as the server gives them). */
export function draw(text, visits = [], chosen = null) {
  const definition = JSON.parse(text), {graph, isBack} = place(definition);
  const points = graph.edges().flatMap(edge => graph.edge(edge).points), nodes = graph.nodes().map(name => graph.node(name));
  const right = Math.max(...points.map(point => point.x), ...nodes.map(node => node.x + node.width / 2)) + MARGIN + 24;
  const left = -44, width = Math.ceil(right - left), height = Math.ceil(graph.graph().height);
  const last = new Map(visits.map(visit => [visit.name, visit]));
  const taken = new Set(visits.slice(1).map((visit, n) => `${visits[n].name} ${visit.name}`));
  const lines = edges(definition).map(({from, to, kind}) => {
    const edge = graph.edge(from, to), used = taken.has(`${from} ${to}`);
    return `<path class="${kind}${used ? " taken" : ""}" d="${edge ? placed(edge.points) : beside(graph.node(from), graph.node(to), isBack({from, to}))}" marker-end="url(#tip)"/>`;
  });
  const boxes = Object.entries(definition.States).map(([name, state]) => {
    const {x, y, width: w, height: h} = graph.node(name), visit = last.get(name), status = shown(state, visit);
    const times = visits.filter(other => other.name === name).length;
    let note = state.Type;
    if (visit) note = `${visit.seconds.toFixed(2)} s`;
    if (visit && visit.tries > 1) note += ` · ${visit.tries} tries`;
    if (times > 1) note += ` · ${times} visits`;
    const sign = SIGNS[status] ? `${SIGNS[status]} ` : "";
    return `<g class="${status}${name === chosen ? " chosen" : ""}" data-state="${escape(name)}" tabindex="0" role="button" ` +
      `aria-label="${escape(name)}: ${status}"><title>${escape(state.Comment || name)}</title>` +
      `<rect x="${(x - w / 2).toFixed(1)}" y="${(y - h / 2).toFixed(1)}" width="${w.toFixed(1)}" height="${h}"/>` +
      `<text x="${x.toFixed(1)}" y="${(y - 3).toFixed(1)}">${sign}${escape(name)}</text>` +
      `<text class="sub" x="${x.toFixed(1)}" y="${(y + 14).toFixed(1)}">${escape(note)}</text></g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" class="stepgram" viewBox="${left} 0 ${width} ${height}" ` +
    `width="${width}" height="${height}" role="group" aria-label="${escape(definition.Comment || "State machine")}">` +
    `<style>${STYLE}</style><defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">` +
    `<path class="tip" d="M0,0L10,5L0,10z"/></marker></defs>\n${lines.join("\n")}\n${boxes.join("\n")}\n</svg>`;
}
