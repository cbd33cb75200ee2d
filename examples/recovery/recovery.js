// Follows a room with a history: no message is lost or repeated. The protocol is described in server.py.
//
//   const follower = new Follower("/recovery/sockjs", "ticks", { message, lost, state });
//   follower.connect();
//
// message(data, offset, source)   each message, once and in order; its source is "live", "recovered" or "history"
// lost()                          some messages are lost; those that follow are all that the server still has
// state(state, text)              the state of the connection: "connecting", "connected" or "waiting"

const MAX_BACKOFF = 30_000; // ms between two attempts to connect
const HEARTBEAT_TIMEOUT = 60_000; // ms; the server sends a heartbeat every 25 s
const RETRY_INTERVAL = 1000; // ms until the next request while Redis is unavailable

export class Follower {
  #position = null; // the offset and epoch of the last message
  #buffer = null; // the messages since the last request, until its response arrives
  #requestId = 0; // the id of the last request
  #socket = null;
  #attempts = 0; // to connect, since the last response
  #retryTimer;
  #receivedAt = 0;

  constructor(url, room, handlers) {
    this.url = url;
    this.room = room;
    this.handlers = handlers;
    // If the network is lost or the computer was suspended, the browser may take minutes to notice.
    setInterval(() => {
      if (this.#socket && Date.now() - this.#receivedAt > HEARTBEAT_TIMEOUT) this.reconnect("No data from the server");
    }, 5000);
    addEventListener("online", () => this.#socket || this.connect());
  }

  // --- connection

  connect() {
    this.#disconnect();
    this.handlers.state("connecting", "Connecting …");
    this.#receivedAt = Date.now();
    const socket = (this.#socket = new SockJS(this.url));
    socket.onopen = () => this.#follow();
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onheartbeat = () => (this.#receivedAt = Date.now());
    socket.onclose = (event) => this.reconnect(`${event.code} ${event.reason}`);
  }

  // Close the connection and reconnect after a delay in ms. By default the delay doubles with each attempt. Half of it is
  // random, so that the clients of a restarted server do not all reconnect at the same time.
  reconnect(reason, wait = Math.min(MAX_BACKOFF, 1000 * 2 ** this.#attempts) * (0.5 + Math.random() / 2)) {
    this.#disconnect();
    this.#attempts += 1;
    this.handlers.state("waiting", `Not connected (${reason}), reconnecting in ${Math.ceil(wait / 1000)} s`);
    this.#retryTimer = setTimeout(() => this.connect(), wait);
  }

  #disconnect() {
    clearTimeout(this.#retryTimer);
    if (this.#socket) {
      // Messages that still arrive on this connection will be recovered.
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
  }

  // --- messages

  #follow() {
    this.#buffer ??= [];
    this.#requestId += 1;
    const request = { type: "follow", room: this.room, id: this.#requestId, ...this.#position };
    this.#socket.send(JSON.stringify(request));
  }

  #receive(message) {
    this.#receivedAt = Date.now();
    switch (message.type) {
      case "message":
        if (this.#buffer) this.#buffer.push(message);
        else if (!this.#process(message, "live")) this.#follow();
        break;
      case "caught up":
        if (message.id === this.#requestId) this.#catchUp(message);
        break;
      case "gap":
        // All clients of the server receive this at once. From now on, messages wait for the response.
        this.#buffer ??= [];
        clearTimeout(this.#retryTimer);
        this.#retryTimer = setTimeout(() => this.#follow(), 1000 * message.within * Math.random());
        break;
      case "unavailable":
        clearTimeout(this.#retryTimer);
        this.#retryTimer = setTimeout(() => this.#follow(), RETRY_INTERVAL);
        break;
    }
  }

  #catchUp({ messages, lost, offset, epoch }) {
    const source = this.#position ? "recovered" : "history";
    const buffered = this.#buffer;
    this.#buffer = null;
    this.#attempts = 0;
    this.#position = { offset, epoch };
    this.handlers.state("connected", `Connected over ${this.#socket.transport}`);
    if (lost) this.handlers.lost();
    for (const [offset, data] of messages) this.handlers.message(data, offset, source);
    if (buffered.map((message) => this.#process(message, "live")).includes(false)) this.#follow();
  }

  // Process a message unless it was processed before; return false if messages before it are missing.
  #process({ offset, epoch, data }, source) {
    const last = this.#position;
    if (epoch === last.epoch && offset <= last.offset) return true;
    // The epoch is "" while the room has no messages.
    if (offset !== last.offset + 1 || (epoch !== last.epoch && last.epoch)) return false;
    this.#position = { offset, epoch };
    this.handlers.message(data, offset, source);
    return true;
  }
}
