// The dashboard page. The messages are described in watch.py.

const SPAN = 300; // seconds that the charts show
const MINUTE = 60;
const GAP = 5; // seconds without a sample, over which no line is drawn
const MAX_WAIT = 30_000; // ms between two attempts to connect
const MAX_SILENCE = 15_000; // ms; a sample comes every second
const STABLE = 10_000; // ms that a connection must last before the next wait is a short one again
const UNAUTHENTICATED = 4001; // the close code

const $ = (id) => document.getElementById(id);

let socket = null; // the connection in use
let token = recall();
let attempts = 0; // to connect, since the last connection that lasted
let enteredAt = 0; // 0 while nothing has come over this connection
let heardAt = 0;
let retryAt = 0;
let timer;
let samples = []; // of the last minutes, the oldest first

// --- numbers

// Short, with three digits at most and some of k, M and G.
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

// --- from samples to what is drawn

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

// All routers as if they were one.
function sum(snapshots) {
  const result = {};
  for (const [name, value] of snapshots.flatMap(Object.entries)) {
    if (typeof value === "object") result[name] = sum([result[name] ?? {}, value]);
    else if (name.startsWith("timer_lag")) result[name] = Math.max(result[name] ?? 0, value);
    else result[name] = (result[name] ?? 0) + value;
  }
  return result;
}

// Each sample beside the one before it. Where there is none to be compared with, after a restart of the server or a long
// pause, there is a point without figures between the two, and so the line is broken.
function makePoints() {
  const points = [];
  const chosen = $("router").value;
  let before = null;
  for (const { run, time, clock, routers } of samples) {
    const now = chosen ? routers[chosen] : sum(Object.values(routers));
    if (!now) continue; // an earlier run of the server had other routers
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

// How fast a counter grows. One that has become smaller has begun anew.
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
    title: "Messages a second",
    format: short,
    least: 4,
    lines: inAndOut("messages_received", "messages_sent", rateOf),
  },
  {
    title: "Bytes a second",
    format: bytes,
    least: 100,
    lines: inAndOut("bytes_received", "bytes_sent", rateOf),
  },
  {
    title: "Characters that wait",
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
    title: "Opened and closed a second",
    format: short,
    least: 4,
    lines: [
      { name: "opened", colour: "--in", value: rate(({ opened }) => total(opened)) },
      { name: "closed", colour: "--out", dash: [6, 4], value: rate(({ closed }) => total(closed)) },
    ],
  },
];

// From the lowest area to the highest.
const TRANSPORTS = ["websocket", "rawwebsocket", "xhr_streaming", "eventsource", "htmlfile", "xhr", "jsonp"];

// One area for each transport that there is or was; the uppermost first.
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

// The least round number that has some room above the highest value; it changes seldom, so the scale keeps still.
function ceiling(highest, least) {
  const wanted = Math.max(highest * 1.05, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].find((factor) => factor * power >= wanted * 0.999) * power;
}

const lastMinutes = (newest) => [newest - SPAN, newest];

// uPlot draws lines on over gaps and covers what is between; by half its thickness a steep line stands out there.
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

  // Takes new points.
  draw(points) {
    const lines = this.definition.lines ?? areas(points);
    const names = lines.map(({ name }) => name).join();
    this.points = points;
    this.values = lines.map(({ value }) => points.map((point) => point.now && value(point)));
    // Each area stands on those below it, which are drawn later and cover what they share.
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

  // Has the chart made anew with the next points, in the colours that hold then.
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
        // Not the range that uPlot proposes: it widens that of a single point.
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

  // The legend tells the values at the pointer, or else the newest.
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
  1002: "connection interrupted: the client left",
  1003: "data of a kind that is not taken",
  1005: "closed by the client, without a code",
  1006: "timed out, or the network was lost",
  1007: "not valid text or JSON",
  1008: "came from another address",
  1009: "message too big, or too many at once",
  1011: "a callback failed",
  1012: "service restart",
  1013: "try again later",
  2010: "another connection was still open",
  3000: "closed by the server: “Go away!”",
  3008: "slow consumer",
  3013: "too many messages: max_inbound_rate",
  other: "codes that clients made up",
};
const REASONS = {
  allowed_origins: "a page of a foreign origin",
  draining: "the server is about to end",
  max_inbound_rate: "a client sends too many messages a second",
  max_message_size: "message or POST too big",
  max_messages_per_request: "too many messages in one request",
  max_queue_bytes: "a callback does not keep up",
  max_sessions: "no room for another session",
  max_sessions_per_ip: "too many sessions of one address",
  max_unopened_sessions: "too many sessions wait for on_open",
  payload: "a POST that is no array of strings",
  request_fields: "header fields and cookies that are too many or too long",
  request_uri: "a URI that is too long",
  session_origin: "a session of a page of another origin",
  verify_ip: "a session of another address",
};
const FAULTS = {
  dropped: "messages to slow clients given up",
  on_close: "callback failed",
  on_dropped: "callback failed",
  on_message: "callback failed",
  on_open: "callback failed",
};
const NONE = { closed: "None yet", rejected: "Nothing yet", faults: "None yet" };

const ofApplication = (code) => (code >= 4000 && code <= 4999 ? "the application's own" : "");
const faults = ({ callback_errors, messages_dropped }) =>
  messages_dropped ? { ...callback_errors, dropped: messages_dropped } : callback_errors;

// What has been counted in all, and how much of it since the figures of a minute ago.
function fillTable(id, words, counts, earlier) {
  const rows = Object.keys(counts).map((name) => {
    const since = Math.max(0, counts[name] - (earlier[name] ?? 0));
    return [name, words[name] ?? ofApplication(name), short(since), short(counts[name])];
  });
  const told = JSON.stringify(rows);
  if ($(id).dataset.told === told) return; // somebody may be selecting text in it
  $(id).dataset.told = told;
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
  setText($("in-all"), `${short(now.messages_received)} in all`);
  setNumber("out", perSecond(rates[1]));
  setText($("out-all"), `${short(now.messages_sent)} in all`);
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
  unit.textContent = " a second";
  $(id).replaceChildren(number, unit);
}

function listRouters(names) {
  const known = [...$("router").options].slice(1).map((option) => option.value);
  if (names.join() === known.join()) return;
  const chosen = $("router").value;
  $("router").replaceChildren(new Option("all together", ""), ...names.map((name) => new Option(name, name)));
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
    heardAt = Date.now();
    socket.send(JSON.stringify({ token, run, clock }));
  };
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = lost;
}

function disconnect() {
  clearInterval(timer);
  $("waiting").hidden = true;
  enteredAt = heardAt = 0;
  if (socket) {
    // What still comes from this connection belongs to the past.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
  }
}

function receive(news) {
  heardAt = Date.now();
  for (const sample of news) {
    // Where somebody has set the server's clock back, what was to come later makes room.
    samples = samples.filter(({ time }) => time < sample.time && time >= sample.time - SPAN - GAP);
    samples.push(sample);
  }
  if (!enteredAt) {
    enteredAt = Date.now();
    $("door").hidden = true;
    $("figures").hidden = false;
    show("connected", `Live over ${socket.transport}`);
    tellOfDetour(socket.transport);
  }
  if (samples.length) listRouters(Object.keys(samples.at(-1).routers));
  drawAll();
}

// What does not reach this page does not reach those of the service's own users either.
function tellOfDetour(transport) {
  const lost = transport === "websocket" ? "" : transport.endsWith("polling") ? "Neither websockets nor streams come" : "Websockets do not come";
  $("detour").textContent =
    lost && `${lost} through to this page: a proxy on the way does not pass upgrades on, or gathers answers. What it breaks, ` +
      `and what to do, says: python -m sockjs_tornado info ${socket.url}`;
  $("detour").hidden = !lost;
}

function lost(event) {
  if (enteredAt && Date.now() - enteredAt > STABLE) attempts = 0;
  disconnect();
  if (event.code === UNAUTHENTICATED) {
    askForToken(token && event.reason);
    return;
  }
  const last = samples.at(-1);
  show("waiting", last ? `Connection lost. These are the figures of ${clockTime(last.time)}` : "Cannot connect");

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
  setText($("countdown"), `${samples.length ? "Connection lost. " : ""}Trying again in ${Math.max(seconds, 0)} s`);
  if (seconds <= 0) connect();
}

function askForToken(why) {
  show("", "Not connected");
  $("figures").hidden = true;
  $("door").hidden = false;
  setText($("refused"), why);
  $("token").focus();
}

// A network that is gone, or a laptop that slept: the browser itself may take many minutes to notice.
setInterval(() => {
  if (heardAt && Date.now() - heardAt > MAX_SILENCE) lost({ code: 1006 });
}, 1_000);

// Browsers may be set to refuse storage, with an exception.
function remember() {
  try {
    sessionStorage.setItem("dashboard.token", token);
  } catch {}
}

function recall() {
  try {
    return sessionStorage.getItem("dashboard.token") ?? "";
  } catch {
    return "";
  }
}

// --- what the user does

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  remember();
  attempts = 0;
  connect();
});

$("retry").addEventListener("click", connect);
$("router").addEventListener("change", drawAll);
document.addEventListener("visibilitychange", drawAll);
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
