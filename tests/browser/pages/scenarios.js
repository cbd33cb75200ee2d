// What a client of the server goes through, in a browser's page and in Node.js alike. Nothing is judged here: every
// scenario reports what it saw, and the Python tests say what that should have been.

"use strict";

const LIMIT = 60_000; // ms until a scenario gives up; also what a transport gets to connect, however busy the machine

const HUNDRED = Array.from({ length: 100 }, (_, number) => `message ${number}`);

const LARGE = Array.from({ length: 20_000 }, (_, number) => String(number).padStart(5, "0")).join("");

// Every UTF-16 code unit once: controls, separators, noncharacters, and each surrogate alone.
const CHARACTERS = Array.from({ length: 256 }, (_, row) =>
  String.fromCharCode(...Array.from({ length: 256 }, (_, column) => row * 256 + column)));

// What some framing, escaping or parsing on the way could take for its own.
const AWKWARD = [
  "", " ", "\t", "\n", "\r\n", "\0", "a\0b", '"', "'", "\\", "\\\\", "\\u0041", "\\n", "/", "//", "/**/",
  "%", "%%", "%2", "100%", "%25", "%2525", "%0A", "%E2%98%83", "%ff", "%u1234", "%ZZ", "+", "a+b", "&", "&amp;", "d=1&d=2",
  "</script>", "</SCRIPT >", "</script><script>self.ran = 1</script>", "<!--", "<!--<script>", "-->", "]]>", "<img src=x>",
  "o", "h", "a[]", 'a["x"]', 'c[3000,"Go away!"]', "[]", "{}", "null", "undefined", "__proto__",
  "data: x", "data: x\r\n\r\n", "\r\n\r\ndata: x\r\n\r\n", ":", "event: y", "0\r\n\r\n", "p(1);",
  "\u2028", "\u2029", "\ufeff", "\ufeffx", "x\ufeff", "\ufffd", "\uffff", "\u200d", "\u202e", "\u00a0", "\u007f", "\u0085",
  "e\u0301", "é", "ﬁ", "Å", "שלום", "مرحبا", "日本語", "한국어", "ไทย",
  "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "👍🏽", "☺️", "𝒳", "\u{10000}", "\u{1ffff}", "\u{20000}", "\u{e0041}", "\u{10ffff}",
  "\ud83d", "\ude00", "\ude00\ud83d", "\ud83d\ud83d\ude00", "\ud83d\ude00\ude00", "\ud83dx\ude00", "😀\ud83d",
];

// One connection, and all that was heard of it.
class Client {
  constructor(SockJS, url, transports) {
    this.opened = 0;
    this.transport = null;
    this.heartbeats = 0;
    this.messages = [];
    this.closed = null;
    this.look = () => {};
    const sock = this.sock = new SockJS(url, null, { transports, timeout: LIMIT });
    sock.onopen = () => this.heard(() => {
      this.opened += 1;
      this.transport = sock.transport;
    });
    sock.onheartbeat = () => this.heard(() => { this.heartbeats += 1; });
    sock.onmessage = ({ data }) => this.heard(() => { this.messages.push(data); });
    sock.onclose = ({ code, reason, wasClean }) => this.heard(() => { this.closed = [code, reason, wasClean]; });
  }

  heard(note) {
    note();
    this.look();
  }

  // Resolves once the condition holds; rejects where the connection closes before.
  until(condition) {
    return new Promise((resolve, reject) => {
      this.look = () => {
        if (condition()) resolve();
        else if (this.closed) reject(new Error("closed too early"));
      };
      this.look();
    });
  }

  // Sends the messages, the first `atOnce` of them together and each other one when an echo has come; then says goodbye,
  // which the server echoes, and closes.
  async exchange(messages, { atOnce = messages.length, goodbye = "bye" } = {}) {
    const all = [...messages, goodbye];
    let sent = 0;
    const send = () => this.sock.send(all[sent++]);
    await this.until(() => this.opened);
    while (sent < atOnce) send();
    await this.until(() => {
      while (sent < all.length && sent < atOnce + this.messages.length) send();
      return this.messages.length >= all.length;
    });
    await this.until(() => this.closed);
    return { sent, wrong: differences(all, this.messages) };
  }

  get facts() {
    const { opened, transport, heartbeats, messages, closed } = this;
    return { opened, transport, heartbeats, received: messages.length, units: messages.join("").length, closed };
  }
}

// The first few differences of two lists, in ASCII.
function differences(expected, actual) {
  const show = (text) => text === undefined ? "nothing" :
    JSON.stringify(text).slice(0, 150).replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const wrong = [];
  for (let index = 0; index < Math.max(expected.length, actual.length) && wrong.length < 5; index += 1) {
    if (expected[index] !== actual[index]) {
      wrong.push(`message ${index} should be ${show(expected[index])} and is ${show(actual[index])}`);
    }
  }
  return wrong;
}

// Each takes a function that connects to a service, and the server's address.
const SCENARIOS = {
  hundred: (connect) => connect("/talk").exchange(HUNDRED, { atOnce: 80 }),

  large: (connect) => connect("/talk").exchange([LARGE]),

  characters: (connect) => connect("/talk").exchange(CHARACTERS),

  awkward: (connect) => connect("/talk").exchange(AWKWARD, { goodbye: "awkward bye" }),

  async close(connect) {
    const client = connect("/close");
    await client.until(() => client.closed);
    return {};
  },

  async idle(connect) {
    const client = connect("/idle");
    await client.until(() => client.heartbeats >= 5);
    return client.exchange(["still here"]);
  },

  // The client is the one who goes, and the server says what it heard.
  async leave(connect, base) {
    const client = connect("/leave");
    const name = `${Math.random()}`;
    await client.until(() => client.opened);
    client.sock.send(name);
    await client.until(() => client.messages[0] === name);
    client.sock.close();
    await client.until(() => client.closed);
    const answer = await fetch(`${base}/left?name=${name}`);
    return { server: await answer.json() };
  },

  choice: (connect) => echoAndLeave(connect("/echo")),

  without_websocket: (connect) => echoAndLeave(connect("/disabled_websocket_echo")),

  // The server offers websockets, and something on the way does not let them pass.
  blocked_websocket: (connect) => echoAndLeave(connect("/blocked")),
};

async function echoAndLeave(client) {
  await client.until(() => client.opened);
  client.sock.send("chosen");
  await client.until(() => client.messages.length > 0);
  client.sock.close();
  await client.until(() => client.closed);
  return {};
}

async function attempt(SockJS, { base, transports }, scenario) {
  let client;
  let timer;
  const connect = (path) => client = new Client(SockJS, base + path, transports);
  const tooLong = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end within ${LIMIT} ms`)), LIMIT);
  });
  try {
    const facts = await Promise.race([SCENARIOS[scenario](connect, base), tooLong]);
    return { ...client.facts, ...facts };
  } catch (error) {
    return { ...client?.facts, error: String(error) };
  } finally {
    clearTimeout(timer);
    client?.sock.close();
  }
}

// Runs the scenarios of each chain one after the other, and all chains side by side. A chain is
//   { name, base: the server's address, transports: what SockJS is given, scenarios: [...] }
// What was seen is put into `results`, by the chain's and the scenario's name.
async function run(SockJS, chains, results) {
  await Promise.all(chains.map(async (chain) => {
    for (const scenario of chain.scenarios) {
      results[`${chain.name} ${scenario}`] = await attempt(SockJS, chain, scenario);
    }
  }));
  return results;
}

if (typeof module === "object") module.exports = { run };
