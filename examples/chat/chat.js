// The chat page. The messages are described in server.py.
// Whatever people typed gets into the page by textContent only, so none of it can run.

const MAX_LINES = 500; // older ones go
const MAX_WAIT = 30_000; // ms between two attempts to connect
const MAX_SILENCE = 60_000; // ms; the server's heartbeat comes every 25 s
const STABLE = 10_000; // ms that a connection must last before the next wait is a short one again

const $ = (id) => document.getElementById(id);

let socket = null; // the connection in use
let wanted = ""; // the nickname that the user asked for
let me = ""; // the one that the server gave; empty while not in the chat
let people = [];
let attempts = 0; // to connect, since the last connection that lasted
let enteredAt = 0;
let heardAt = 0;
let retryAt = 0;
let timer;
let atEnd = true; // of the log; who has scrolled back to read is left alone

// Tells the server that it is this window that comes back, though it may not have noticed yet that the old connection is
// dead: so the nickname is given to it again.
const token = crypto.getRandomValues(new Uint8Array(16)).join("-");

// --- connection

function connect() {
  disconnect();
  show("connecting", "Connecting …");
  const transports = $("transport").value || undefined;
  socket = new SockJS("/chat/sockjs", null, { transports });
  socket.onopen = () => send({ type: "enter", name: wanted, token });
  socket.onmessage = (event) => receive(event.data);
  socket.onheartbeat = () => (heardAt = Date.now());
  socket.onclose = lost;
}

function disconnect() {
  clearInterval(timer);
  $("waiting").hidden = true;
  me = "";
  if (socket) {
    // What still comes from this connection belongs to the past.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
  }
}

function send(message) {
  socket.send(JSON.stringify(message));
}

function lost(event) {
  if (me) {
    notice(`Connection lost (${event.code} ${event.reason}).`);
    if (Date.now() - enteredAt > STABLE) attempts = 0;
  }
  disconnect();
  listPeople([]);
  show("waiting", "Not connected");

  // The wait doubles with each attempt, and half of it is chance: otherwise all the clients of a server that
  // was restarted would come back in the same instant, again and again.
  const wait = Math.min(MAX_WAIT, 1000 * 2 ** attempts) * (0.5 + Math.random() / 2);
  attempts += 1;
  retryAt = Date.now() + wait;
  $("waiting").hidden = false;
  countDown();
  timer = setInterval(countDown, 200);
}

function countDown() {
  const seconds = Math.ceil((retryAt - Date.now()) / 1000);
  $("countdown").textContent = `Trying again in ${Math.max(seconds, 0)} s`;
  if (seconds <= 0) connect();
}

function receive(message) {
  heardAt = Date.now();
  switch (message.type) {
    case "welcome":
      me = message.name;
      enteredAt = Date.now();
      show("connected", `Connected over ${socket.transport}`);
      enterRoom();
      listPeople(message.people);
      notice(me === wanted ? `You are ${me}.` : `“${wanted}” is taken, so you are “${me}”.`);
      wanted = me; // also after a restart of the server
      break;
    case "entered": {
      if (!me) break; // the welcome is yet to come, and has them
      const known = new Set(people);
      const names = message.names.filter((name) => !known.has(name));
      listPeople([...people, ...names]);
      if (names.length) notice(`${enumerate(names)} came in.`);
      break;
    }
    case "left": {
      if (!me) break;
      const gone = new Set(message.names);
      listPeople(people.filter((name) => !gone.has(name)));
      notice(`${enumerate(message.names)} left.`);
      break;
    }
    case "people":
      listPeople(message.people);
      break;
    case "said":
      line("", person("strong", message.name), ` ${message.text}`);
      break;
    case "error":
      if (me) line("error", message.text);
      else leave(message.text); // the nickname was refused
      break;
  }
}

// A network that is gone, or a laptop that slept: the browser itself may take many minutes to notice.
setInterval(() => {
  if (me && Date.now() - heardAt > MAX_SILENCE) lost({ code: 1006, reason: "Nothing heard from the server" });
}, 5_000);

// --- page

function show(state, text) {
  $("state").className = state;
  $("state").textContent = text;
  $("send").disabled = state !== "connected";
}

function enterRoom() {
  if (!$("room").hidden) return; // back after an interruption: leave the focus where it is
  $("door").hidden = true;
  $("room").hidden = $("leave").hidden = false;
  $("text").focus();
}

function leave(why = "") {
  disconnect();
  show("", "Not connected");
  $("room").hidden = $("leave").hidden = true;
  $("door").hidden = false;
  $("refused").textContent = why;
  $("log").replaceChildren();
  $("name").focus();
}

function listPeople(names) {
  people = [...new Set(names)].sort((a, b) => a.localeCompare(b)); // who has just come in may be in both answers
  $("online").textContent = `Online (${people.length})`;
  $("people").replaceChildren(...people.map((name) => person("li", name, name === me ? " (you)" : "")));
}

// "Ann", "Ann and Bob", "Ann, Bob, Eve and 1,197 others".
function enumerate(names) {
  const shown = names.length > 5 ? [...names.slice(0, 3), `${(names.length - 3).toLocaleString("en")} others`] : [...names];
  const last = shown.pop();
  return shown.length ? `${shown.join(", ")} and ${last}` : last;
}

function person(tag, name, more = "") {
  const element = document.createElement(tag);
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 360;
  element.className = "person";
  element.style.setProperty("--hue", hash);
  element.textContent = name + more;
  return element;
}

function notice(text) {
  line("notice", text);
}

function line(kind, ...content) {
  const log = $("log");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString([], { timeStyle: "short" });
  const element = document.createElement("p");
  element.className = kind;
  element.append(time, ...content); // strings become text nodes
  log.append(element);
  if (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  scrollToEnd();
}

function scrollToEnd() {
  if (atEnd) $("log").scrollTop = $("log").scrollHeight;
}

// --- what the user does

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = $("name").value.normalize("NFKC").trim().replace(/\s+/g, " ");
  remember("nickname", wanted);
  $("refused").textContent = "";
  attempts = 0;
  connect();
});

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!me || !text) return; // not connected: the text stays where it is
  send({ type: "say", text });
  atEnd = true;
  $("text").value = "";
  $("text").focus();
});

$("transport").addEventListener("change", () => {
  remember("transport", $("transport").value);
  if (socket || !$("waiting").hidden) connect();
});

$("retry").addEventListener("click", connect);
$("leave").addEventListener("click", () => leave());

let lastTop = 0;
$("log").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = $("log");
  if (scrollHeight - scrollTop - clientHeight < 40) atEnd = true;
  else if (scrollTop < lastTop) atEnd = false; // the user did it; it is not that the log has just shrunk or grown
  lastTop = scrollTop;
});
new ResizeObserver(scrollToEnd).observe($("log"));
addEventListener("online", () => $("waiting").hidden || connect());

// An iPhone lays its keyboard over the page: make the page as high as what can be seen (unless it is zoomed in).
visualViewport?.addEventListener("resize", () => {
  document.body.style.height = visualViewport.scale === 1 ? `${visualViewport.height}px` : "";
});

// Browsers may be set to refuse storage, with an exception.
function remember(name, value) {
  try {
    localStorage.setItem(`chat.${name}`, value);
  } catch {}
}

function recall(name) {
  try {
    return localStorage.getItem(`chat.${name}`) ?? "";
  } catch {
    return "";
  }
}

$("name").value = recall("nickname");
$("transport").value = recall("transport");
$("name").focus();
