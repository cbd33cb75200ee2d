// The chat page. The messages are described in server.py.
// User input is inserted with textContent only, so it cannot run as HTML.

const MAX_LINES = 500; // older lines are removed
const MAX_DELAY = 30_000; // ms between reconnect attempts
const HEARTBEAT_TIMEOUT = 60_000; // ms; the server sends a heartbeat every 25 s
const STABLE = 10_000; // ms that a connection must last to reset the reconnect delay

const $ = (id) => document.getElementById(id);

let socket = null; // the current connection
let wanted = ""; // the nickname that the user entered
let me = ""; // the nickname that the server assigned; empty if not in the chat
let people = [];
let attempts = 0; // reconnect attempts since the last stable connection
let enteredAt = 0;
let lastActivity = 0;
let retryAt = 0;
let timer;
let atEnd = true; // whether the log is scrolled to its end; if not, do not scroll it

// Identifies this window when it reconnects, so that it gets its nickname back even if the server has not noticed yet
// that the old connection is dead.
const token = crypto.getRandomValues(new Uint8Array(16)).join("-");

// --- connection

function connect() {
  disconnect();
  show("connecting", "Connecting …");
  const transports = $("transport").value || undefined;
  socket = new SockJS("/chat/sockjs", null, { transports });
  socket.onopen = () => send({ type: "enter", name: wanted, token });
  socket.onmessage = (event) => receive(event.data);
  socket.onheartbeat = () => (lastActivity = Date.now());
  socket.onclose = onDisconnect;
}

function disconnect() {
  clearInterval(timer);
  $("waiting").hidden = true;
  me = "";
  if (socket) {
    // Ignore later events of this connection.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
  }
}

function send(message) {
  socket.send(JSON.stringify(message));
}

function onDisconnect(event) {
  if (me) {
    notice(`Connection lost (${event.code} ${event.reason}).`);
    if (Date.now() - enteredAt > STABLE) attempts = 0;
  }
  disconnect();
  listPeople([]);
  show("waiting", "Not connected");

  // Exponential backoff with jitter, so that the clients of a restarted server do not reconnect all at once.
  const delay = Math.min(MAX_DELAY, 1000 * 2 ** attempts) * (0.5 + Math.random() / 2);
  attempts += 1;
  retryAt = Date.now() + delay;
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
  lastActivity = Date.now();
  switch (message.type) {
    case "welcome":
      me = message.name;
      enteredAt = Date.now();
      show("connected", `Connected over ${socket.transport}`);
      enterRoom();
      listPeople(message.people);
      notice(me === wanted ? `You are ${me}.` : `“${wanted}” is taken, so you are “${me}”.`);
      wanted = me; // keep the name, also after a restart of the server
      break;
    case "entered": {
      if (!me) break; // they will be included in the welcome
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
      else leave(message.text); // the nickname was rejected
      break;
  }
}

// If the network is lost, or after a laptop slept, the browser may take many minutes to notice.
setInterval(() => {
  if (me && Date.now() - lastActivity > HEARTBEAT_TIMEOUT) onDisconnect({ code: 1006, reason: "Heartbeat timeout" });
}, 5_000);

// --- page

function show(state, text) {
  $("state").className = state;
  $("state").textContent = text;
  $("send").disabled = state !== "connected";
}

function enterRoom() {
  if (!$("room").hidden) return; // reconnected: keep the focus
  $("door").hidden = true;
  $("room").hidden = $("leave").hidden = false;
  $("text").focus();
}

function leave(error = "") {
  disconnect();
  show("", "Not connected");
  $("room").hidden = $("leave").hidden = true;
  $("door").hidden = false;
  $("refused").textContent = error;
  $("log").replaceChildren();
  $("name").focus();
}

function listPeople(names) {
  people = [...new Set(names)].sort((a, b) => a.localeCompare(b)); // a new participant may be in both messages
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

// --- user actions

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = $("name").value.normalize("NFKC").trim().replace(/\s+/g, " ");
  store("nickname", wanted);
  $("refused").textContent = "";
  attempts = 0;
  connect();
});

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!me || !text) return; // not connected: keep the text
  send({ type: "say", text });
  atEnd = true;
  $("text").value = "";
  $("text").focus();
});

$("transport").addEventListener("change", () => {
  store("transport", $("transport").value);
  if (socket || !$("waiting").hidden) connect();
});

$("retry").addEventListener("click", connect);
$("leave").addEventListener("click", () => leave());

let lastTop = 0;
$("log").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = $("log");
  if (scrollHeight - scrollTop - clientHeight < 40) atEnd = true;
  else if (scrollTop < lastTop) atEnd = false; // scrolled by the user, not by a change of the log's size
  lastTop = scrollTop;
});
new ResizeObserver(scrollToEnd).observe($("log"));
addEventListener("online", () => $("waiting").hidden || connect());

// The keyboard of an iPhone covers the page: shrink the page to its visible height (unless it is zoomed in).
visualViewport?.addEventListener("resize", () => {
  document.body.style.height = visualViewport.scale === 1 ? `${visualViewport.height}px` : "";
});

// If storage is disabled in the browser, access raises an exception.
function store(name, value) {
  try {
    localStorage.setItem(`chat.${name}`, value);
  } catch {}
}

function load(name) {
  try {
    return localStorage.getItem(`chat.${name}`) ?? "";
  } catch {
    return "";
  }
}

$("name").value = load("nickname");
$("transport").value = load("transport");
$("name").focus();
$("name").select(); // another name replaces the stored one
