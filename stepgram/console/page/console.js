/* The console page. It asks its own server only, by addresses relative to its own, which hold the token. */

import {draw, shown} from "./graph.js";

const $ = id => document.getElementById(id);
const LIST_MS = 2000, RUNNING_MS = 700, ENDED_MS = 4000;
const SIGNS = {SUCCEEDED: "✓", RUNNING: "…", FAILED: "✗", TIMED_OUT: "⏱", ABORTED: "■"};

function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name === "cls" ? "class" : name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

async function ask(path, options) {
  const answer = await fetch("api/" + path, options);
  const document = answer.headers.get("content-type")?.includes("json") ? await answer.json() : {error: await answer.text()};
  if (!answer.ok) throw new Error(document.error || answer.statusText);
  return document;
}

function tell(text, isProblem = false) {
  $("live").textContent = text;
  $("live").className = isProblem ? "problem" : "dim";
}

/* ---------------------------------------------------------------- the list */

const rows = new Map();
let following = null, filtered = "";

const filters = () => JSON.stringify(["text", "status", "chat", "since"].map(id => $(id).value.trim()));

function query() {
  const given = new URLSearchParams();
  for (const id of ["text", "status", "chat"]) if ($(id).value.trim()) given.set(id, $(id).value.trim());
  if ($("since").value) given.set("since", new Date(Date.now() - 3600e3 * $("since").value).toISOString());
  return given;
}

function rowElement(row) {
  const started = new Date(row.started);
  return h("li", {},
    h("a", {cls: "row", href: `#${encodeURIComponent(row.name)}`, "aria-current": row.name === chosenName()},
      h("span", {cls: row.status, title: row.status}, SIGNS[row.status] || "?"),
      h("b", {}, row.name),
      h("span", {cls: "dim"}, `${row.seconds.toFixed(1)} s`),
      h("small", {}, `${started.toLocaleString()}${row.error ? ` · ${row.error}` : ""}`)));
}

function put(row, before) {
  const known = rows.get(row.name), text = JSON.stringify(row);
  if (known && known.text === text) return;
  const element = rowElement(row);
  if (known) known.element.replaceWith(element);
  else if (before) $("rows").prepend(element);
  else $("rows").append(element);
  rows.set(row.name, {row, text, element});
}

async function list(more = false) {
  const given = query(), key = filters();
  if (more && following) given.set("next", following);
  $("more").disabled = more;
  const page = await ask(`turns?${given}`).finally(() => { if (more) $("more").disabled = false; });
  if (key !== filters() || (more && key !== filtered)) return;  // somebody looks for something else by now
  if (key !== filtered) {
    filtered = key;
    rows.clear();
    $("rows").replaceChildren();
    following = page.next;
  } else if (more || rows.size <= page.rows.length) {
    following = page.next;
  }
  const isFirst = rows.size === 0;
  for (const row of more || isFirst ? page.rows : [...page.rows].reverse()) put(row, !more && !isFirst);
  if (!more) leaveOut(page);
  $("more").hidden = !following;
  if (!rows.size) $("rows").replaceChildren(h("li", {cls: "empty"}, following ? "Nothing yet; there are older ones." : [...query()].length ? "No turn matches." : "No turn yet. Write to the bot."));
  else document.querySelector("#rows .empty")?.remove();
}

/* A row of the first page that is not there any more does not match any more. */
function leaveOut(page) {
  const present = new Set(page.rows.map(row => row.name)), oldest = page.rows.at(-1)?.started;
  for (const [name, {row, element}] of rows)
    if (!present.has(name) && (!oldest ? !page.next : row.started > oldest)) { element.remove(); rows.delete(name); }
}

/* ---------------------------------------------------------------- one turn */

const chosenName = () => decodeURIComponent(location.hash.slice(1));
let turn = null, drawn = "", attempt = null, state = null;

async function one() {
  const name = chosenName();
  document.body.classList.toggle("one", Boolean(name));
  for (const {row, element} of rows.values()) element.firstChild.setAttribute("aria-current", row.name === name);
  if (!name) return $("turn").replaceChildren(h("p", {cls: "empty"}, "Choose a turn."));
  if (turn?.name !== name) $("turn").replaceChildren(h("p", {cls: "empty"}, "Loading …"));
  let found;
  try {
    found = await ask(`turns/${encodeURIComponent(name)}`);
  } catch (error) {
    if (name === chosenName()) $("turn").replaceChildren(h("p", {cls: "empty problem"}, error.message));
    return;
  }
  if (name !== chosenName()) return;
  const now = JSON.stringify([name, found.status, found.attempts.map(states => states.map(s => [s.name, s.status, s.tries]))]);
  if (turn?.name !== name || turn.attempts.length !== found.attempts.length) { attempt = found.attempts.length - 1; state = null; }
  turn = found;
  if (now === drawn) return moveOn();
  drawn = now;
  render();
}

/* What grows while a state runs, without touching the rest. */
function moveOn() {
  if (turn.status !== "RUNNING") return;
  const {total} = spans(turn.attempts), all = turn.attempts.flat(), bars = [...document.querySelectorAll(".bar")];
  if (bars.length !== all.length) return;
  all.forEach((visit, n) => { bars[n].lastChild.textContent = seconds(visit); });
  const running = bars.at(-1)?.querySelector("i");
  if (running) running.style.width = `${Math.min(100, 100 * all.at(-1).seconds / total)}%`;
}

const seconds = visit => `${visit.seconds.toFixed(2)} s${visit.tries > 1 ? ` ×${visit.tries}` : ""}`;
const visits = () => turn.attempts[attempt] || [];
const definition = () => JSON.parse(turn.definition);

/* The seconds the longest attempt took, so that the bars of all attempts share a scale. */
function spans(attempts) {
  const starts = attempts.map(states => states.length ? Date.parse(states[0].entered) : 0);
  const ends = attempts.map((states, n) => Math.max(...states.map(s => Date.parse(s.entered) + 1000 * s.seconds), starts[n]));
  return {starts, total: Math.max(0.001, ...ends.map((end, n) => (end - starts[n]) / 1000))};
}

function chosenVisit() {
  const named = visits().filter(visit => visit.name === state);
  if (named.length) return named.at(-1);
  return state ? null : visits().filter(visit => visit.name === turn.failed_state).at(-1) || visits().at(-1);
}

function render() {
  const given = turn.input || {}, parts = [head(given)];
  if (given.message?.text) parts.push(h("div", {cls: "message", "aria-label": "Message"}, given.message.text));
  if (turn.explanation) parts.push(why(turn.explanation));
  parts.push(h("div", {cls: "columns"}, h("div", {}, graph()), h("div", {}, bars(), data())));
  parts.push(later("Event history", "events", events), later("Conversation", "conversation", () => conversation(given.session_key)));
  const open = [...document.querySelectorAll("#turn details[open]")].map(element => element.id), focus = document.activeElement?.id;
  $("turn").replaceChildren(...parts);
  const attempts = document.querySelector(".attempts");
  attempts.scrollLeft = attempts.scrollWidth;  // the last one, when there are many
  for (const id of open) if ($(id)) $(id).open = true;
  if (focus && $("turn").querySelector(`#${CSS.escape(focus)}`)) $(focus).focus();
}

function head(given) {
  const output = turn.output || {}, facts = [];
  if (given.user) facts.push(`${given.user.name} (${given.user.id})`);
  if (given.chat) facts.push(`chat ${given.chat.id}${given.chat.thread_id ? ` topic ${given.chat.thread_id}` : ""}`);
  facts.push(new Date(turn.started).toLocaleString());
  if (turn.stopped) facts.push(`${((Date.parse(turn.stopped) - Date.parse(turn.started)) / 1000).toFixed(1)} s`);
  if (output.version) facts.push(`version ${output.version}`);
  if (output.cost_usd !== undefined) facts.push(`$${output.cost_usd.toFixed(4)}`);
  if (turn.attempts.length > 1) facts.push(`${turn.attempts.length} attempts`);
  const running = turn.status === "RUNNING", ended = ["FAILED", "TIMED_OUT", "ABORTED"].includes(turn.status);
  return h("div", {},
    h("div", {cls: "head"},
      h("a", {cls: "back", href: "#"}, "‹ Turns"),
      h("h2", {}, turn.name),
      h("strong", {cls: turn.status, id: "status-now"}, `${SIGNS[turn.status] || ""} ${turn.status}`),
      h("div", {cls: "actions"},
        ended ? h("button", {id: "rerun", cls: "primary", disabled: turn.not_redrivable ? "" : null, title: turn.not_redrivable, onclick: () => act("rerun")}, "Rerun") : null,
        running ? null : h("button", {id: "from-start", onclick: () => act("rerun-from-start")}, "Rerun from start"),
        running ? h("button", {id: "stop", cls: "danger", onclick: () => act("stop")}, "Stop") : null)),
    h("div", {cls: "dim"}, facts.join(" · ")));
}

function why(found) {
  const line = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
  return h("section", {cls: "why", "aria-label": "Why it failed"},
    h("h2", {}, `${found.state} failed: ${found.error}`),
    h("p", {}, found.cause || "Without a cause."),
    h("dl", {},
      ...line("Retries spent", String(found.retries)),
      ...line("Committed", found.committed ? "yes: the conversation is at this turn's version" : "no: the conversation is as before"),
      ...line("Delivered", `${found.delivered} of the answer`),
      ...line("Rerun", found.rerun),
      ...line("Next step", found.remedy)));
}

function graph() {
  const box = h("div", {cls: "graph", id: "graph"});
  box.innerHTML = draw(turn.definition, visits(), state || chosenVisit()?.name);
  for (const element of box.querySelectorAll("[data-state]")) {
    const choose = () => pick(element.dataset.state, attempt);
    element.id = `state-${element.dataset.state}`;
    element.addEventListener("click", choose);
    element.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } });
  }
  return box;
}

function pick(name, number) {
  state = name;
  attempt = number;
  render();
}

function bars() {
  const {starts, total} = spans(turn.attempts), states = definition().States, several = turn.attempts.length > 1;
  return h("div", {cls: "attempts"}, ...turn.attempts.map((found, number) =>
    h("div", {cls: "attempt"}, h("h3", {}, several ? `Attempt ${number + 1}` : "Time per state"), ...found.map((visit, n) => {
      const bar = h("i"), status = shown(states[visit.name] || {}, visit);
      bar.style.left = `${100 * (Date.parse(visit.entered) - starts[number]) / 1000 / total}%`;
      bar.style.width = `${100 * visit.seconds / total}%`;
      return h("button", {cls: `bar ${status}${several ? " narrow" : ""}`, id: `bar-${number}-${n}`, title: `${status}${visit.error ? `: ${visit.error}` : ""}`,
        "aria-pressed": visit === chosenVisit(), onclick: () => pick(visit.name, number)},
      h("span", {}, visit.name), h("span", {cls: "track"}, bar), h("span", {}, seconds(visit)));
    }))));
}

function data() {
  const visit = chosenVisit(), name = state || visit?.name;
  if (!name) return h("div");
  const comment = h("p", {cls: "dim"}, definition().States[name]?.Comment || "");
  if (!visit) return h("div", {}, h("h3", {}, name), comment, h("p", {cls: "dim"}, "Not reached in this attempt."));
  const parts = [h("h3", {}, `${name} · ${visit.status}${visit.tries > 1 ? ` after ${visit.tries} tries` : ""}`), comment];
  if (visit.error) parts.push(h("h3", {}, "Error"), copyable(`${visit.error}: ${readable(visit.cause)}`));
  if (visit.output !== null) parts.push(h("h3", {}, "Output"), copyable(pretty(visit.output)));
  parts.push(h("h3", {}, "Input"), copyable(pretty(visit.input)));
  return h("div", {}, ...parts);
}

/* A Lambda function's cause is its error document. */
function readable(cause) {
  try { return pretty(JSON.parse(cause)); } catch { return cause || ""; }
}

const pretty = value => typeof value === "string" ? value : JSON.stringify(value, null, 2);

function copyable(text) {
  const button = h("button", {onclick: async () => { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }}, "Copy");
  return h("div", {cls: "data"}, h("pre", {tabindex: 0}, text), button);
}

/* A part that is fetched when somebody opens it. */
function later(title, id, load) {
  const inside = h("div", {cls: "scroll"}, "…");
  return h("details", {id, ontoggle: async event => {
    if (!event.target.open) return;
    try { inside.replaceChildren(await load()); } catch (error) { inside.replaceChildren(h("p", {cls: "problem"}, error.message)); }
  }}, h("summary", {}, title), inside);
}

const table = (heads, lines) => h("table", {}, h("thead", {}, h("tr", {}, ...heads.map(text => h("th", {}, text)))),
  h("tbody", {}, ...lines.map(cells => h("tr", {}, ...cells.map(cell => h("td", {}, cell))))));

async function events() {
  const found = await ask(`turns/${encodeURIComponent(turn.name)}/events`);
  return table(["#", "Time", "Event", "State or error"], found.map(event => {
    const details = Object.entries(event).find(([name]) => name.endsWith("EventDetails"))?.[1] || {};
    return [String(event.id), event.timestamp.slice(11, 23), event.type, details.name || details.error || details.resource || ""];
  }));
}

async function conversation(key) {
  const found = await ask(`conversations/${encodeURIComponent(key)}`);
  return h("div", {},
    h("p", {}, `${found.key} · session ${found.session_id} · version ${found.version} · $${found.cost_usd.toFixed(4)} · expires ${found.expires}`),
    table(["Version", "Turn", "Files", "Cost so far"], found.versions.map(version => [
      `${version.version}${version.version === found.version ? " (now)" : ""}`,
      h("a", {href: `#${encodeURIComponent(version.turn)}`, "aria-current": version.turn === turn.name}, version.turn),
      String(version.files), `$${version.cost_usd.toFixed(4)}`])));
}

/* ---------------------------------------------------------------- doing */

const QUESTIONS = {
  rerun: () => `Rerun ${turn.name}? ${turn.explanation?.rerun || ""}`,
  "rerun-from-start": () => `Start a new execution with the message of ${turn.name}? The agent runs and a new answer is sent.`,
  stop: () => `Stop ${turn.name} now? The chat is told that its message has no answer; a rerun can still give one.`,
};

async function act(action) {
  const name = turn.name;
  $("asked").textContent = QUESTIONS[action]();
  $("question").returnValue = "no";
  $("question").showModal();
  await new Promise(resolve => $("question").addEventListener("close", resolve, {once: true}));
  if ($("question").returnValue !== "yes") return;
  try {
    const done = await ask(`turns/${encodeURIComponent(name)}/${action}`, {method: "POST"});
    if (done.name !== name) location.hash = encodeURIComponent(done.name);
    drawn = "";
    await refresh();
  } catch (error) {
    tell(error.message, true);
  }
}

document.addEventListener("keydown", event => {
  if (event.target.matches("input,select") || $("question").open || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape" && event.target.matches("input")) {
      event.preventDefault();  // which would empty the field
      event.target.blur();
    }
    return;
  }
  const names = [...document.querySelectorAll("#rows .row")], at = names.findIndex(row => row.getAttribute("aria-current") === "true");
  const press = id => { const button = $(id); if (button && !button.disabled) { event.preventDefault(); button.click(); } };
  if (event.key === "/") { event.preventDefault(); $("text").focus(); }
  else if (event.key === "j" && names[at + 1]) names[at + 1].click();
  else if (event.key === "k" && names[at - 1]) names[at - 1].click();
  else if (event.key === "r") press("rerun");
  else if (event.key === "s") press("stop");
  else if (event.key === "Escape") location.hash = "";
});

/* ---------------------------------------------------------------- keeping up */

async function refresh() {
  try {
    await Promise.all([list(), one()]);
    tell(`live · ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    tell(error.message === "Failed to fetch" ? "the console's server does not answer" : error.message, true);
  }
}

async function keepUp(what, pause) {
  for (;;) {
    await new Promise(resolve => setTimeout(resolve, pause()));
    if (!document.hidden) await what().catch(error => tell(error.message, true));
  }
}

$("filters").addEventListener("submit", event => event.preventDefault());
for (const id of ["text", "status", "chat", "since"]) $(id).addEventListener("input", () => list().catch(error => tell(error.message, true)));
$("more").addEventListener("click", () => list(true).catch(error => tell(error.message, true)));
window.addEventListener("hashchange", () => { drawn = ""; one(); });

refresh();
keepUp(refresh, () => LIST_MS);
keepUp(async () => { if (turn?.status === "RUNNING") await one(); }, () => turn?.status === "RUNNING" ? RUNNING_MS : ENDED_MS);
