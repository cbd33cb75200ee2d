// The dashboard page. The messages are described in service.py.

const SPAN = 300; // seconds that the charts show
const MINUTE = 60;
const GAP = 5; // seconds without a sample after which a line is interrupted
const MAX_DELAY = 30_000; // ms between reconnect attempts
const SAMPLE_TIMEOUT = 15_000; // ms; the server sends a sample every second
const STABLE = 10_000; // ms that a connection must last to reset the reconnect delay
const UNAUTHENTICATED = 4001; // the close code
const LISTING_EVERY = 5_000; // ms between two lists of sessions and rooms; the server limits their rate

const $ = (id) => document.getElementById(id);

let socket = null; // the current connection
let password = loadPassword();
let attempts = 0; // reconnect attempts since the last stable connection
let firstSampleAt = 0; // 0 before the first message of this connection
let lastActivity = 0;
let retryAt = 0;
let timer;
let samples = []; // samples of the last minutes, oldest first

// --- numbers

// Format a number with at most three digits and one of the units k, M and G.
function short(number) {
  for (const unit of ["", "k", "M", "G"]) {
    if (number < 999.5 || unit === "G") {
      const digits = Number.isInteger(number) || number >= 99.95 ? 0 : 1;
      return number.toFixed(digits).replace(/\.0$/, "") + unit;
    }
    number /= 1000;
  }
}

const bytes = (number) => short(number).replace(/[kMG]?$/, "\u00a0$&B");
const milliseconds = (number) =>
  number >= 1000 ? `${short(number / 1000)}\u00a0s` : `${number < 0.05 ? 0 : short(number)}\u00a0ms`;

const clockTime = (seconds, style = "medium") =>
  new Date(seconds * 1000).toLocaleTimeString("en-GB", { timeStyle: style });

// --- from samples to points

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

// The sum of all routers' statistics.
function sum(snapshots) {
  const result = {};
  for (const [name, value] of snapshots.flatMap(Object.entries)) {
    if (typeof value === "object") result[name] = sum([result[name] ?? {}, value]);
    else if (name.startsWith("timer_lag")) result[name] = Math.max(result[name] ?? 0, value);
    else result[name] = (result[name] ?? 0) + value;
  }
  return result;
}

// Pairs of consecutive samples. After a restart of the server or a long pause, a point without values interrupts the line.
function makePoints() {
  const points = [];
  const chosen = $("router").value;
  let before = null;
  for (const { run, time, clock, routers } of samples) {
    const now = chosen ? routers[chosen] : sum(Object.values(routers));
    if (!now) continue; // the router did not exist in an earlier run of the server
    if (before && (run !== before.run || clock - before.clock > GAP)) {
      points.push({ time: (before.time + time) / 2, now: null });
      before = null;
    }
    const point = { run, time, clock, now, before: before?.now, seconds: clock - before?.clock };
    points.push(point);
    before = point;
  }
  return points;
}

// The rate of a counter per second; null if the counter was reset.
function rate(counter) {
  return ({ now, before, seconds }) => {
    const more = before ? counter(now) - counter(before) : -1;
    return more < 0 ? null : more / seconds;
  };
}

const inAndOut = (received, sent, of) => [
  { name: "in", colour: "--in", value: of(received) },
  { name: "out", colour: "--out", dash: [6, 4], value: of(sent) },
];
const rateOf = (name) => rate((figures) => figures[name]);
const figure = (name) => ({ now }) => now[name];

const CHARTS = [
  { title: "Sessions by transport", format: short, least: 4, stacked: true },
  {
    title: "Messages per second",
    format: short,
    least: 4,
    lines: inAndOut("messages_received", "messages_sent", rateOf),
  },
  {
    title: "Bytes per second",
    format: bytes,
    least: 100,
    lines: inAndOut("bytes_received", "bytes_sent", rateOf),
  },
  {
    title: "Queued characters",
    format: short,
    least: 100,
    lines: [
      { name: "backlog, in", colour: "--in", value: figure("backlog") },
      { name: "queued, out", colour: "--out", dash: [6, 4], value: figure("queued") },
    ],
  },
  {
    title: "Timer lag",
    format: milliseconds,
    least: 5,
    lines: [
      { name: "last", colour: "--in", value: ({ now }) => now.timer_lag * 1000 },
      { name: "peak of 30 to 60 s", colour: "--out", dash: [6, 4], value: ({ now }) => now.timer_lag_peak * 1000 },
    ],
  },
  {
    title: "Sessions opened and closed per second",
    format: short,
    least: 4,
    lines: [
      { name: "opened", colour: "--in", value: rate(({ opened }) => total(opened)) },
      { name: "closed", colour: "--out", dash: [6, 4], value: rate(({ closed }) => total(closed)) },
    ],
  },
];

// From the lowest area of the chart to the highest.
const TRANSPORTS = ["websocket", "rawwebsocket", "xhr_streaming", "eventsource", "htmlfile", "xhr", "jsonp"];

// One area for each transport with sessions in the samples, the highest first.
function areas(points) {
  const seen = new Set(points.flatMap(({ now }) => Object.keys(now?.sessions ?? {})));
  const names = [...TRANSPORTS.filter((name) => seen.delete(name)), ...seen];
  return (names.length ? names : ["websocket"]).reverse().map((name) => ({
    name,
    colour: TRANSPORTS.includes(name) ? `--${name.replace("_", "-")}` : "--other",
    value: ({ now }) => now.sessions[name] ?? 0,
  }));
}

// --- charts

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A round number above the highest value, so that the scale rarely changes.
function ceiling(highest, least) {
  const wanted = Math.max(highest * 1.05, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].find((factor) => factor * power >= wanted * 0.999) * power;
}

const lastMinutes = (newest) => [newest - SPAN, newest];

// uPlot draws lines across gaps and clips them; widen the gaps, since a steep line would stick out by half its width.
const widen = ([left, right]) => [left - devicePixelRatio, right + devicePixelRatio];

class Chart {
  constructor(definition) {
    this.definition = definition;
    const section = $("chart").content.firstElementChild.cloneNode(true);
    const [heading, at, legend, plot] = ["h2", ".at", ".legend", ".plot"].map((part) => section.querySelector(part));
    Object.assign(this, { at, legend, plot, uplot: null, names: "", points: [], values: [] });
    heading.textContent = definition.title;
    heading.id = definition.title.toLowerCase().replaceAll(" ", "-");
    section.setAttribute("aria-labelledby", heading.id);
    plot.setAttribute("aria-label", `Chart of the last five minutes: ${definition.title}`);
    plot.hidden = !globalThis.uPlot;
    $("charts").append(section);
    new ResizeObserver(() => this.uplot?.setSize(this.size())).observe(plot);
  }

  size() {
    return { width: this.plot.clientWidth, height: this.plot.clientHeight };
  }

  // Draw new points.
  draw(points) {
    const lines = this.definition.lines ?? areas(points);
    const names = lines.map(({ name }) => name).join();
    this.points = points;
    this.values = lines.map(({ value }) => points.map((point) => point.now && value(point)));
    // Areas are stacked: lower areas are drawn later and cover the common part.
    const heights = !this.definition.stacked
      ? this.values
      : this.values.map((_, i) => points.map(({ now }, j) => now && total(this.values.slice(i).map((row) => row[j]))));
    const data = [points.map(({ time }) => time), ...heights];
    if (names !== this.names) {
      this.names = names;
      this.reset();
      this.listLines(lines);
    }
    if (globalThis.uPlot) {
      if (this.uplot) this.uplot.setData(data);
      else this.uplot = new uPlot(this.options(lines), data, this.plot);
    }
    this.showValues();
  }

  // Create the chart again with the next points, in the current colours.
  reset() {
    this.uplot?.destroy();
    this.uplot = null;
  }

  options(lines) {
    const { format, least, stacked } = this.definition;
    const axis = {
      stroke: colour("--faint"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      ...this.size(),
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "dashboard" }, drag: { x: false, y: false }, y: false, points: { show: !stacked } },
      scales: {
        // Do not use uPlot's range: it widens the range of a single point.
        x: { time: false, range: () => lastMinutes(this.points.at(-1)?.time ?? Date.now() / 1000) },
        y: { range: (_, lowest, highest) => [0, ceiling(highest ?? 0, least)] },
      },
      axes: [
        { ...axis, size: 22, space: 30, incrs: [MINUTE], values: (_, times) => times.map((t) => clockTime(t, "short")) },
        { ...axis, size: 54, space: 28, values: (_, numbers) => numbers.map(format) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: colour(stacked ? "--card" : line.colour),
          fill: stacked ? colour(line.colour) : undefined,
          width: stacked ? 1 : 2,
          dash: line.dash,
          points: { show: false },
          gaps: (_, series, from, to, gaps) => gaps.map(widen),
        })),
      ],
      hooks: { setCursor: [() => this.showValues()] },
    };
  }

  listLines(lines) {
    const items = lines.map(({ name, colour: ofLine, dash }) => {
      const item = document.createElement("li");
      item.className = this.definition.stacked ? "area" : dash ? "dashed" : "";
      item.style.setProperty("--colour", `var(${ofLine})`);
      item.append(`${name} `, document.createElement("b"));
      return item;
    });
    this.legend.replaceChildren(...items);
  }

  // The legend shows the values at the pointer, or the latest ones.
  showValues() {
    const pointed = this.uplot?.cursor.idx ?? null;
    const index = pointed ?? this.points.length - 1;
    setText(this.at, pointed === null || !this.points[index] ? "" : clockTime(this.points[index].time));
    this.legend.querySelectorAll("b").forEach((element, i) => {
      const value = this.values[i]?.[index];
      setText(element, value == null ? "–" : this.definition.format(value));
    });
  }
}

// --- tables

const CODES = {
  1000: "closed by the client",
  1001: "going away: the page or the server",
  1002: "over HTTP: closed by the page, or connection lost",
  1003: "unsupported type of data",
  1005: "closed by the client, without a code",
  1006: "timeout, or connection lost",
  1007: "invalid UTF-8 or JSON",
  1008: "message not finished in time",
  1009: "message too big, or too many messages",
  1011: "a callback failed",
  1012: "service restart",
  1013: "try again later",
  2010: "another connection still open",
  3000: "closed by the server: “Go away!”",
  3008: "slow consumer",
  3013: "too many messages: max_inbound_rate",
  other: "other codes from clients",
};
const REASONS = {
  allowed_origins: "origin not allowed",
  chunk_size: "chunked body with many tiny chunks",
  cluster: "new session while the cluster is not available: see the log",
  draining: "the server is shutting down",
  max_buffered_body_bytes: "incomplete bodies and messages take too much memory",
  max_inbound_rate: "too many messages per second from a client",
  max_message_size: "message or POST too big",
  max_messages_per_request: "too many messages in one request",
  max_queue_bytes: "messages faster than the application",
  max_sessions: "too many sessions",
  max_sessions_per_ip: "too many sessions from one address",
  max_unopened_sessions: "too many sessions waiting for on_open",
  payload: "POST that is not an array of strings",
  relay: "request not passed on to another node: see the log",
  request_fields: "too many or too long header fields or cookies",
  request_uri: "URI too long",
  session_origin: "session of another origin",
  unexpected_body: "body too big for a URL that needs none",
  verify_ip: "session of another address",
};
const FAULTS = {
  dropped: "messages dropped for slow clients",
  on_close: "callback failed",
  on_dropped: "callback failed",
  on_message: "callback failed",
  on_open: "callback failed",
};
const NONE = { closed: "None yet", rejected: "None yet", faults: "None yet" };

const ofApplication = (code) => (code >= 4000 && code <= 4999 ? "code of the application" : "");
const faults = ({ callback_errors, messages_dropped }) =>
  messages_dropped ? { ...callback_errors, dropped: messages_dropped } : callback_errors;

// Totals, and the differences to the values of a minute ago.
function fillTable(id, words, counts, earlier) {
  const rows = Object.keys(counts).map((name) => {
    const since = Math.max(0, counts[name] - (earlier[name] ?? 0));
    return [name, words[name] ?? ofApplication(name), short(since), short(counts[name])];
  });
  const content = JSON.stringify(rows);
  if ($(id).dataset.content === content) return; // keep the user's text selection
  $(id).dataset.content = content;
  $(id).replaceChildren(...rows.map(tableRow));
  if (!rows.length) {
    const cell = $(id).insertRow().insertCell();
    cell.colSpan = 3;
    cell.className = "none";
    cell.textContent = NONE[id];
  }
}

function tableRow([name, meaning, ...numbers]) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  const strong = document.createElement("b");
  head.scope = "row";
  strong.textContent = name;
  head.append(strong, ` ${meaning}`);
  row.append(head);
  for (const number of numbers) row.insertCell().textContent = number;
  return row;
}

// --- sessions and rooms

let askedAt = 0;

// Ask for the sessions and rooms of the chosen router, unless it was a moment ago; then the next time is soon enough.
function askForListing() {
  if (document.hidden || !firstSampleAt || Date.now() - askedAt < 600) return;
  askedAt = Date.now();
  socket.send(JSON.stringify({ list: $("router").value, search: $("term").value.trim() }));
}

const duration = (seconds) =>
  seconds < 60 ? `${seconds}\u00a0s` : seconds < 3600 ? `${Math.floor(seconds / 60)}\u00a0min` : `${short(seconds / 3600)}\u00a0h`;

function showListing({ sessions, total: all, rooms, all_rooms: allRooms }) {
  if (document.querySelector("#open button:active")) return; // it would be replaced before it is released
  setText($("open-count"), sessions.length < all ? `${sessions.length} shown, ${all} in total` : `${all} in total`);
  setText($("rooms-count"), rooms.length < allRooms ? `${rooms.length} of ${allRooms}` : `${allRooms} in total`);
  const several = Object.keys(samples.at(-1)?.routers ?? {}).length > 1;
  const focused = document.activeElement?.dataset?.session;
  const rows = sessions.map((session) => sessionRow(session, several));
  $("open").replaceChildren(...(rows.length ? rows : [emptyRow(4)]));
  if (focused) $("open").querySelector(`button[data-session=${CSS.escape(focused)}]`)?.focus();
  $("rooms").replaceChildren(
    ...(rooms.length ? rooms.map(({ router, room, members }) => tableRow([room, several ? router : "", short(members)])) : [emptyRow(2)]),
  );
}

function sessionRow({ router, label, ip, transport, seconds, queued, rooms, more_rooms: more }, several) {
  const inRooms = rooms.length ? ` in ${rooms.join(", ")}${more ? ` and ${more} more` : ""}` : "";
  const ofRouter = several ? `${router} ` : "";
  const row = tableRow([`#${label}`, `${ofRouter}${transport} from ${ip}${inRooms}`, duration(seconds), short(queued)]);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Disconnect";
  button.dataset.session = `${router} ${label}`;
  button.setAttribute("aria-label", `Disconnect session ${label} of ${router}`);
  button.addEventListener("click", () => {
    if (!confirm(`Disconnect session ${label} of ${router}, from ${ip}?`)) return;
    if (firstSampleAt) socket.send(JSON.stringify({ disconnect: label, router }));
  });
  row.insertCell().append(button);
  return row;
}

function showDisconnected({ disconnected, router, found }) {
  setText($("answer"), found ? `Session ${disconnected} of ${router} was disconnected.` : `Session ${disconnected} of ${router} has already ended.`);
  askedAt = 0;
  askForListing();
}

function emptyRow(columns) {
  const row = document.createElement("tr");
  const cell = row.insertCell();
  cell.colSpan = columns;
  cell.className = "none";
  cell.textContent = "None";
  return row;
}

// --- page

const charts = CHARTS.map((definition) => new Chart(definition));

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function drawAll() {
  if (document.hidden) return;
  const points = makePoints();
  for (const chart of charts) chart.draw(points);
  const last = points.at(-1);
  if (!last) return;

  const { now } = last;
  const rates = ["messages_received", "messages_sent"].map((name) => rateOf(name)(last));
  const perSecond = (value) => (value === null ? "–" : short(value));
  setText($("sessions"), short(total(now.sessions)));
  setText($("attached"), `${short(now.attached)} listening`);
  setNumber("in", perSecond(rates[0]));
  setText($("in-all"), `${short(now.messages_received)} total`);
  setNumber("out", perSecond(rates[1]));
  setText($("out-all"), `${short(now.messages_sent)} total`);
  setText($("queued"), short(now.queued));
  setText($("backlog"), short(now.backlog));
  setText($("lag"), milliseconds(now.timer_lag * 1000));
  setText($("lag-peak"), `peak ${milliseconds(now.timer_lag_peak * 1000)}`);

  const earlier = points.find(({ run, clock }) => run === last.run && clock >= last.clock - MINUTE).now;
  fillTable("closed", CODES, now.closed, earlier.closed);
  fillTable("rejected", REASONS, now.rejected, earlier.rejected);
  fillTable("faults", FAULTS, faults(now), faults(earlier));
}

function setNumber(id, number) {
  const unit = document.createElement("small");
  unit.textContent = " per second";
  $(id).replaceChildren(number, unit);
}

function listRouters(names) {
  const known = [...$("router").options].slice(1).map((option) => option.value);
  if (names.join() === known.join()) return;
  const chosen = $("router").value;
  $("router").replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name)));
  $("router").value = names.includes(chosen) ? chosen : "";
  $("choice").hidden = names.length < 2;
}

function show(state, text) {
  $("state").className = state;
  setText($("state"), text);
  $("figures").classList.toggle("old", state !== "connected" && samples.length > 0);
}

// --- connection

function connect() {
  disconnect();
  show("connecting", "Connecting …");
  socket = new SockJS(new URL("sockjs", document.baseURI).href);
  socket.onopen = () => {
    const { run = "", clock = 0 } = samples.at(-1) ?? {};
    lastActivity = Date.now();
    socket.send(JSON.stringify({ password, run, clock }));
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (Array.isArray(message)) receive(message);
    else if (message.sessions) showListing(message);
    else if (message.disconnected) showDisconnected(message);
  };
  socket.onclose = onDisconnect;
}

function disconnect() {
  clearInterval(timer);
  $("waiting").hidden = true;
  firstSampleAt = lastActivity = 0;
  if (socket) {
    // Ignore later events of this connection.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
  }
}

function receive(received) {
  lastActivity = Date.now();
  for (const sample of received) {
    // If the server's clock was set back, drop the samples with later times.
    samples = samples.filter(({ time }) => time < sample.time && time >= sample.time - SPAN - GAP);
    samples.push(sample);
  }
  if (!firstSampleAt) {
    firstSampleAt = Date.now();
    $("door").hidden = true;
    $("figures").hidden = false;
    show("connected", `Live over ${socket.transport}`);
    showFallback(socket.transport);
    askForListing();
  }
  if (samples.length) listRouters(Object.keys(samples.at(-1).routers));
  drawAll();
}

// If a transport does not work for this page, it does not work for the pages of the service either.
function showFallback(transport) {
  const failed = transport === "websocket" ? "" : transport.endsWith("polling") ? "Neither websockets nor streaming work" : "Websockets do not work";
  $("detour").textContent =
    failed && `${failed} for this page: a proxy may not forward upgrades, or may buffer responses. ` +
      `For a diagnosis run: python -m sockjs_tornado info ${socket.url}`;
  $("detour").hidden = !failed;
}

function onDisconnect(event) {
  if (firstSampleAt && Date.now() - firstSampleAt > STABLE) attempts = 0;
  disconnect();
  if (event.code === UNAUTHENTICATED) {
    askForPassword(password && event.reason);
    return;
  }
  const last = samples.at(-1);
  show("waiting", last ? `Connection lost. Last update: ${clockTime(last.time)}` : "Cannot connect");

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
  setText($("countdown"), `${samples.length ? "Connection lost. " : ""}Trying again in ${Math.max(seconds, 0)} s`);
  if (seconds <= 0) connect();
}

function askForPassword(error) {
  show("", "Not connected");
  $("figures").hidden = true;
  $("door").hidden = false;
  setText($("refused"), error);
  $("password").focus();
}

// If the network is lost, or after a laptop slept, the browser may take many minutes to notice.
setInterval(() => {
  if (lastActivity && Date.now() - lastActivity > SAMPLE_TIMEOUT) onDisconnect({ code: 1006 });
}, 1_000);

// If storage is disabled in the browser, access raises an exception.
function storePassword() {
  try {
    sessionStorage.setItem("dashboard.password", password);
  } catch {}
}

function loadPassword() {
  try {
    return sessionStorage.getItem("dashboard.password") ?? "";
  } catch {
    return "";
  }
}

// --- user actions

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  password = $("password").value;
  storePassword();
  attempts = 0;
  connect();
});

$("retry").addEventListener("click", connect);
$("router").addEventListener("change", () => {
  drawAll();
  askForListing();
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  askForListing();
});
// The button of the field that clears it.
$("term").addEventListener("search", askForListing);
document.addEventListener("visibilitychange", () => {
  drawAll();
  askForListing();
});
setInterval(askForListing, LISTING_EVERY);
addEventListener("online", () => $("waiting").hidden || connect());

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.reset();
  drawAll();
});

$("no-sockjs").hidden = Boolean(globalThis.SockJS);
$("figures").hidden = !globalThis.SockJS;
$("no-uplot").hidden = Boolean(globalThis.uPlot);
$("charts").classList.toggle("bare", !globalThis.uPlot);
drawAll();
if (globalThis.SockJS) connect();
