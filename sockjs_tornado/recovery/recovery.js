// Receives the messages of rooms, each once and in order, across reconnects. The server's part is RecoveryConnection.
//
//   const socket = new RecoverySocket("/feed", { state(state, text) { … }, message(data) { … } });
//   const room = socket.follow("news", { message(data, offset, source) { … }, lost() { … }, refused() { … } });
//   room.unfollow();
//
// The page loads sockjs-client first, or passes it as { SockJS }. All handlers are optional:
//
// state(state, text)              the state of the connection: "connecting", "connected" or "waiting". It is "connected"
//                                 when the responses of all rooms have arrived
// message(data)                   a message of the application that is not part of the protocol
//
// and for a room:
//
// message(data, offset, source)   a message; its source is "live", "recovered" (it was missed) or "history" (it was
//                                 published before the page has followed the room)
// lost()                          some messages are lost; those that follow are all that the server still has
// refused()                       the page may not follow the room
// position                        { offset, epoch }: room.position of an earlier page, to go on from there
//
// Exceptions of handlers are reported like others of the page, and do not stop the messages that follow.

const MAX_BACKOFF = 30_000; // ms between two attempts to connect
const HEARTBEAT_TIMEOUT = 60_000; // ms; the server sends a heartbeat every 25 s
const RETRY_INTERVAL = 1000; // ms until the next request while Redis is unavailable

export class RecoverySocket {
  #rooms = new Map();
  #requestIds = new Map(); // by the names of rooms that were unfollowed on this connection
  #socket = null;
  #attempts = 0; // to connect, since the last response
  #retryTimer;
  #receivedAt = 0;
  #watchTimer;
  #isClosed = false;
  #online = () => this.#socket || this.connect();

  constructor(url, { state, message, SockJS = globalThis.SockJS, options } = {}) {
    if (typeof SockJS !== "function") throw new Error("RecoverySocket: load sockjs-client first, or pass { SockJS }");
    this.url = url;
    this.handlers = { state, message };
    this.create = () => new SockJS(url, null, options);
    // If the network is lost or the computer was suspended, the browser may take minutes to notice.
    this.#watchTimer = setInterval(() => {
      if (this.#socket && Date.now() - this.#receivedAt > HEARTBEAT_TIMEOUT) this.reconnect("No data from the server");
    }, 5000);
    addEventListener("online", this.#online);
    this.connect();
  }

  // --- rooms

  follow(name, handlers = {}) {
    if (this.#rooms.has(name)) throw new Error(`RecoverySocket: the room ${JSON.stringify(name)} is followed already`);
    const room = new Room(name, handlers, this, this.#requestIds.get(name));
    this.#rooms.set(name, room);
    if (this.isOpen) room.follow();
    return room;
  }

  // Called by Room.unfollow().
  remove(room, requestId) {
    if (this.#rooms.get(room.name) !== room) return;
    this.#rooms.delete(room.name);
    this.#requestIds.set(room.name, requestId);
    if (this.isOpen) this.send({ type: "unfollow", room: room.name });
    this.#reportConnected();
  }

  // --- connection

  get isOpen() {
    return this.#socket?.readyState === 1;
  }

  // Send a message: text, or a value as JSON.
  send(message) {
    this.#socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  connect() {
    this.#disconnect();
    this.#state("connecting", "Connecting …");
    if (this.#isClosed) return;
    this.#receivedAt = Date.now();
    const socket = (this.#socket = this.create());
    socket.onopen = () => {
      for (const room of this.#rooms.values()) room.follow();
      this.#reportConnected();
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onheartbeat = () => (this.#receivedAt = Date.now());
    socket.onclose = (event) => this.reconnect(`${event.code} ${event.reason}`);
  }

  // Close the connection and reconnect after a delay in ms. By default the delay doubles with each attempt. Half of it is
  // random, so that the clients of a restarted server do not all reconnect at the same time.
  reconnect(reason, wait = Math.min(MAX_BACKOFF, 1000 * 2 ** this.#attempts) * (0.5 + Math.random() / 2)) {
    if (this.#isClosed) return;
    this.#disconnect();
    this.#attempts += 1;
    // The handler may close the connection, which clears the timer.
    this.#retryTimer = setTimeout(() => this.connect(), wait);
    this.#state("waiting", `Not connected (${reason}), reconnecting in ${Math.ceil(wait / 1000)} s`);
  }

  // Close the connection for good, and unfollow all rooms.
  close() {
    this.#isClosed = true;
    this.#disconnect();
    for (const room of this.#rooms.values()) room.unfollow();
    clearInterval(this.#watchTimer);
    removeEventListener("online", this.#online);
  }

  #disconnect() {
    clearTimeout(this.#retryTimer);
    this.#requestIds.clear();
    for (const room of this.#rooms.values()) room.disconnected();
    if (this.#socket) {
      // Messages that still arrive on this connection will be recovered.
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
  }

  #receive(message) {
    this.#receivedAt = Date.now();
    if (!TYPES.has(message?.type) || typeof message.room !== "string") {
      call(this.handlers.message, message);
    } else if (this.#rooms.has(message.room)) {
      this.#rooms.get(message.room).receive(message);
      this.#reportConnected();
    }
  }

  #reportConnected() {
    if (!this.isOpen || this.#reported === this.#socket) return;
    for (const room of this.#rooms.values()) if (room.isWaiting) return;
    this.#reported = this.#socket;
    this.#attempts = 0;
    this.#state("connected", `Connected over ${this.#socket.transport}`);
  }

  #reported = null; // the socket of the last "connected"

  #state(state, text) {
    call(this.handlers.state, state, text);
  }
}

const TYPES = new Set(["message", "caught up", "gap", "unavailable", "refused"]);

function call(handler, ...args) {
  try {
    handler?.(...args);
  } catch (error) {
    setTimeout(() => {
      throw error;
    });
  }
}

class Room {
  #socket;
  #buffer = null; // the messages since the last request, until its response arrives
  #requestId; // the id of the last request on this connection
  #timer;

  constructor(name, handlers, socket, requestId = 0) {
    this.name = name;
    this.handlers = handlers;
    this.position = handlers.position ?? null; // the offset and epoch of the last message
    this.#socket = socket;
    this.#requestId = requestId;
  }

  get isWaiting() {
    return this.#buffer !== null;
  }

  unfollow() {
    this.#socket.remove(this, this.#requestId);
    this.disconnected();
    this.handlers = {};
  }

  // --- called by RecoverySocket

  follow() {
    clearTimeout(this.#timer);
    this.#buffer ??= [];
    this.#requestId += 1;
    this.#socket.send({ type: "follow", room: this.name, id: this.#requestId, ...this.position });
  }

  disconnected() {
    clearTimeout(this.#timer);
    this.#buffer = null;
    // The requests of all clients that reconnect begin with the same number, so that the server encodes one response.
    this.#requestId = 0;
  }

  receive(message) {
    switch (message.type) {
      case "message":
        if (this.#buffer) this.#buffer.push(message);
        else if (!this.#process(message)) this.follow();
        break;
      case "gap":
        // All clients of the server receive this at once.
        this.#buffer ??= [];
        this.#followIn(1000 * message.within * Math.random());
        break;
      default:
        if (this.#buffer && message.id === this.#requestId) this.#respond(message);
    }
  }

  #followIn(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.follow(), wait);
  }

  #respond(response) {
    if (response.type === "unavailable") {
      this.#followIn(RETRY_INTERVAL);
    } else if (response.type === "refused") {
      this.#buffer = null;
      call(this.handlers.refused);
    } else {
      this.#catchUp(response);
    }
  }

  #catchUp({ messages, lost, offset, epoch }) {
    const source = this.position ? "recovered" : "history";
    const buffered = this.#buffer;
    const requestId = this.#requestId;
    this.#buffer = null;
    this.position = { offset, epoch };
    if (lost) call(this.handlers.lost);
    for (const [number, data] of messages) call(this.handlers.message, data, number, source);
    // After a message that does not follow the last one, the rest is in the next response. There is none if a handler
    // has unfollowed the room, or closed the connection or opened it again.
    if (!buffered.every((message) => this.#process(message)) && this.#requestId === requestId) this.follow();
  }

  // Process a message unless it was processed before; return false if messages before it are missing.
  #process({ offset, epoch, continues, data }) {
    const last = this.position;
    if (epoch === last.epoch && offset <= last.offset) return true;
    // The epoch is "" while the room has no messages.
    if (offset !== last.offset + 1 || ![epoch, continues, ""].includes(last.epoch)) return false;
    this.position = { offset, epoch };
    call(this.handlers.message, data, offset, "live");
    return true;
  }
}
