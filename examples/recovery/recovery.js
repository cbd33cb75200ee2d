// Follows a room with a history, so that nothing is lost and nothing comes twice. The messages are described in server.py.
//
//   const follower = new Follower("/recovery/sockjs", "ticks", { message, lost, state });
//   follower.connect();
//
// message(data, offset, how)   each message, once and in order; `how` it came: "live", "recovered" or "history"
// lost()                       some messages are lost for good: what follows is all that the server still has
// state(state, text)           of the connection: "connecting", "connected" or "waiting"

const MAX_WAIT = 30_000; // ms between two attempts to connect
const MAX_SILENCE = 60_000; // ms; the server's heartbeat comes every 25 s
const ASK_AGAIN = 1000; // ms until the next try, while the server cannot tell what was missed

export class Follower {
  #position = null; // offset and epoch of the last message taken
  #held = null; // messages that came since the question, while it has no answer
  #asked = 0; // questions, so far
  #socket = null;
  #attempts = 0; // to connect, since the last connection that was of use
  #retry; // timer
  #heardAt = 0;

  constructor(url, room, handlers) {
    this.url = url;
    this.room = room;
    this.handlers = handlers;
    // A network that is gone, or a laptop that slept: the browser itself may take many minutes to notice.
    setInterval(() => {
      if (this.#socket && Date.now() - this.#heardAt > MAX_SILENCE) this.cut("Nothing heard from the server");
    }, 5000);
    addEventListener("online", () => this.#socket || this.connect());
  }

  // --- connection

  connect() {
    this.#disconnect();
    this.handlers.state("connecting", "Connecting …");
    this.#heardAt = Date.now();
    const socket = (this.#socket = new SockJS(this.url));
    socket.onopen = () => this.#ask();
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onheartbeat = () => (this.#heardAt = Date.now());
    socket.onclose = (event) => this.cut(`${event.code} ${event.reason}`);
  }

  // Lose the connection, and come back after some ms; if none are given, after a pause that doubles with each attempt.
  // Half of it is chance: otherwise all the clients of a server that was restarted would come in the same instant.
  cut(why, wait = Math.min(MAX_WAIT, 1000 * 2 ** this.#attempts) * (0.5 + Math.random() / 2)) {
    this.#disconnect();
    this.#attempts += 1;
    this.handlers.state("waiting", `Not connected (${why}), back in ${Math.ceil(wait / 1000)} s`);
    this.#retry = setTimeout(() => this.connect(), wait);
  }

  #disconnect() {
    clearTimeout(this.#retry);
    if (this.#socket) {
      // What still comes from this connection will come again.
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
  }

  // --- messages

  #ask() {
    this.#held ??= [];
    this.#asked += 1;
    const question = { type: "follow", room: this.room, id: this.#asked, ...this.#position };
    this.#socket.send(JSON.stringify(question));
  }

  #receive(message) {
    this.#heardAt = Date.now();
    switch (message.type) {
      case "message":
        if (this.#held) this.#held.push(message);
        else if (!this.#take(message, "live")) this.#ask();
        break;
      case "caught up":
        if (message.id === this.#asked) this.#catchUp(message);
        break;
      case "gap":
        this.#ask();
        break;
      case "unavailable":
        clearTimeout(this.#retry);
        this.#retry = setTimeout(() => this.#ask(), ASK_AGAIN);
        break;
    }
  }

  #catchUp({ messages, lost, offset, epoch }) {
    const how = this.#position ? "recovered" : "history";
    const held = this.#held;
    this.#held = null;
    this.#attempts = 0;
    this.#position = { offset, epoch };
    this.handlers.state("connected", `Connected over ${this.#socket.transport}`);
    if (lost) this.handlers.lost();
    for (const [offset, data] of messages) this.handlers.message(data, offset, how);
    if (held.map((message) => this.#take(message, "live")).includes(false)) this.#ask();
  }

  // Returns false where the message is not the next one, nor one that was there before.
  #take({ offset, epoch, data }, how) {
    const last = this.#position;
    if (epoch === last.epoch && offset <= last.offset) return true;
    // A room without any message has no epoch yet.
    if (offset !== last.offset + 1 || (epoch !== last.epoch && last.epoch)) return false;
    this.#position = { offset, epoch };
    this.handlers.message(data, offset, how);
    return true;
  }
}
