"use strict";
const $ = id => document.getElementById(id);
const TAGS = new Set("A B I U S EM STRONG CODE PRE P BR H1 H2 H3 H4 H5 H6 UL OL LI TABLE TR TH TD BLOCKQUOTE HR DETAILS SUMMARY INPUT".split(" "));
const shown = new Map();  // message id -> its box and what it said; an edited message is drawn again
// Rich HTML comes from a model: only known tags are kept, and of attributes only what cannot run.
function safe(node) {
  const out = document.createDocumentFragment();
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) out.append(child.data);
    else if (child.nodeType === Node.ELEMENT_NODE) {
      const kept = TAGS.has(child.tagName) ? document.createElement(child.tagName) : document.createElement("span");
      const href = child.getAttribute("href");
      if (child.tagName === "A" && /^https?:/.test(href || "")) { kept.href = href; kept.rel = "noopener"; kept.target = "_blank"; }
      if (child.getAttribute("align")) kept.style.textAlign = child.getAttribute("align");
      if (child.tagName === "INPUT") { kept.type = "checkbox"; kept.disabled = true; kept.checked = child.hasAttribute("checked"); }
      kept.append(safe(child));
      out.append(kept);
    }
  }
  return out;
}
// Entities as Telegram gives them: offsets in UTF-16 units, which JavaScript's strings have too.
function withEntities(text, entities) {
  const out = document.createDocumentFragment();
  const cuts = [...new Set([0, text.length, ...entities.flatMap(e => [e.offset, e.offset + e.length])])].sort((a, b) => a - b);
  const tag = {bold: "b", italic: "i", underline: "u", strikethrough: "s", code: "code", pre: "code", blockquote: "q"};
  for (let i = 0; i + 1 < cuts.length; i++) {
    let piece = document.createTextNode(text.slice(cuts[i], cuts[i + 1]));
    for (const e of entities.filter(e => e.offset <= cuts[i] && e.offset + e.length >= cuts[i + 1])) {
      const around = document.createElement(e.type === "text_link" ? "a" : tag[e.type] || "span");
      if (e.type === "text_link" && /^https?:/.test(e.url || "")) { around.href = e.url; around.target = "_blank"; around.rel = "noopener"; }
      around.append(piece); piece = around;
    }
    out.append(piece);
  }
  return out;
}
const file = id => "person/files/" + encodeURIComponent(id);
function add(m) {
  const box = document.createElement("div");
  box.className = m.from.is_bot ? "m" : "m mine";
  if (m.reply_to_message) {
    const quote = document.createElement("div");
    quote.className = "q"; quote.textContent = m.reply_to_message.text || "…"; box.append(quote);
  }
  const body = document.createElement("div");
  if (m.page) body.append(safe(new DOMParser().parseFromString(m.page.html, "text/html").body));
  else if (m.photo) {
    const picture = document.createElement("img");
    picture.src = file(m.photo.at(-1).file_id); picture.alt = m.caption || "photo";
    body.append(picture); if (m.caption) body.append(m.caption);
  } else if (m.document || m.audio || m.video || m.voice) {
    const what = m.document || m.audio || m.video || m.voice, link = document.createElement("a");
    link.href = file(what.file_id); link.download = what.file_name || "voice.ogg";
    link.textContent = (m.document ? "📄 " : m.video ? "🎬 " : "🎵 ") + link.download + " (" + what.file_size + " bytes)";
    body.append(link); if (m.caption) body.append(document.createElement("br"), m.caption);
  } else if (m.forum_topic_created) {
    body.textContent = "📌 " + m.forum_topic_created.name;
  } else { body.className = "t"; body.append(withEntities(m.text || "", m.entities || [])); }
  const time = document.createElement("time");
  time.textContent = new Date(m.date * 1000).toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"});
  box.append(body, time);
  for (const row of m.reply_markup?.inline_keyboard || []) for (const key of row) {
    const button = document.createElement("button");
    button.className = key.callback_data === "done" ? "key done" : "key"; button.textContent = key.text; button.type = "button";
    button.onclick = () => post("person/buttons", {chat_id: $("chat").value, message_id: m.message_id, data: key.callback_data, language: language()});
    box.append(button);
  }
  if (m.reactions?.length) {
    const reactions = document.createElement("div");
    reactions.className = "react"; reactions.textContent = m.reactions.join(" "); box.append(reactions);
  }
  document.querySelector(".hint")?.remove();
  const old = shown.get(m.message_id);
  if (old) old.box.replaceWith(box); else { $("log").insertBefore(box, live); box.scrollIntoView({block: "end"}); }
  shown.set(m.message_id, {box, seen: JSON.stringify(m)});
}
// What fades: a draft with its Stop button, or "typing".
const live = document.createElement("div");
live.id = "live"; live.style.alignSelf = "flex-start"; live.style.maxWidth = "92%";
let liveSeen = "";
function showSigns({draft, action}) {
  const mine = draft && draft.thread === (Number($("thread").value) || 0) ? draft : null;
  const seen = JSON.stringify([mine, Boolean(action)]);
  if (seen === liveSeen) return;
  liveSeen = seen;
  live.replaceChildren();
  if (mine) {
    const box = document.createElement("div");
    box.className = "m draft";
    if (mine._page) box.append(safe(new DOMParser().parseFromString(mine._page.html, "text/html").body));
    else box.textContent = mine.text || "Thinking…";
    if (mine.can_stop) {
      const stop = document.createElement("button");
      stop.type = "button"; stop.className = "stop"; stop.textContent = "Stop";
      stop.onclick = () => post("person/stop", {chat_id: $("chat").value});
      box.append(document.createElement("br"), stop);
    }
    live.append(box); live.scrollIntoView({block: "end"});
  } else if (action) {
    const sign = document.createElement("div");
    sign.className = "sign"; sign.textContent = "Stepgram is " + action.action.replaceAll("_", " ") + "…"; live.append(sign);
  }
}
const language = () => $("language").value;
const post = (path, body) => fetch(path, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body)});
let asking = false;
async function refresh() {
  if (asking) return;
  asking = true;
  const chat = $("chat").value, thread = Number($("thread").value) || 0;
  try {
    const messages = await (await fetch(`person/chats/${encodeURIComponent(chat)}/messages`)).json();
    const there = new Set(messages.map(m => m.message_id));
    for (const [id, {box}] of shown) if (!there.has(id)) { box.remove(); shown.delete(id); }
    for (const m of messages) if ((m.message_thread_id || 0) === thread && shown.get(m.message_id)?.seen !== JSON.stringify(m)) add(m);
    showSigns(await (await fetch(`person/chats/${encodeURIComponent(chat)}/signs`)).json());
    const here = (await (await fetch("person/chats")).json()).find(one => String(one.id) === chat);
    const threads = [0, ...(here?.threads || [])];
    if ($("threads").options.length !== threads.length) $("threads").replaceChildren(...threads.map(t => new Option(t, t)));
  } finally { asking = false; }
}
function restart() { shown.clear(); liveSeen = ""; $("log").replaceChildren(live); refresh(); }
$("chat").onchange = $("thread").onchange = restart;
$("form").onsubmit = async event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  await post("person/messages", {chat_id: $("chat").value, thread_id: $("thread").value, text, language: language()});
  refresh();
};
$("files").onchange = async () => {
  const form = new FormData();
  for (const one of $("files").files) form.append("file", one);
  form.append("chat_id", $("chat").value); form.append("thread_id", $("thread").value); form.append("language", language());
  if ($("text").value.trim()) { form.append("caption", $("text").value.trim()); $("text").value = ""; }
  $("files").value = "";
  await fetch("person/files", {method: "POST", body: form});
  refresh();
};
$("text").onkeydown = event => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("form").requestSubmit(); } };
$("language").value = navigator.language.startsWith("zh") ? "zh" : "en";
$("log").append(live);
setInterval(refresh, 500); refresh();
