// What the server's board holds, here: whole first, then numbered changes; right again after any reconnect.
//
// Times are seconds of the board's clock.  `now()` follows it between messages with this browser's monotonic clock, so a
// wall clock that jumps changes no age.  What has only a date is as old as the server's clock says (`since()`): this browser's
// may show any time.  `silence()` is how long nothing has come.

export class Store {
  constructor() {
    this.values = new Map();
    this.listeners = new Set();
    this.instance = "";
    this.number = 0;
    this.connected = false;
    this.offset = 0;
    this.ahead = NaN;
    this.heard = performance.now();
  }

  connect(url = "/events") {
    const seen = this.instance ? `?from=${this.instance}:${this.number}` : "";
    this.source = new EventSource(url + seen);
    this.source.onmessage = (event) => this.take(JSON.parse(event.data));
    this.source.onopen = () => { this.connected = true; };
    this.source.onerror = () => {
      this.connected = false;
      this.notify(new Set());
      this.source.close();
      clearTimeout(this.again);
      this.again = setTimeout(() => this.connect(url), 1000);
    };
  }

  close() {
    this.source.close();
    clearTimeout(this.again);
    this.connected = false;
  }

  take(message) {
    const changed = new Set();
    if (message.whole) {
      for (const key of this.values.keys()) if (!(key in message.set)) changed.add(key);
      this.values.clear();
    }
    for (const key of message.gone) {
      this.values.delete(key);
      changed.add(key);
    }
    for (const [key, value] of Object.entries(message.set)) {
      this.values.set(key, value);
      changed.add(key);
    }
    this.instance = message.instance;
    this.number = message.number;
    this.heard = performance.now();
    this.offset = message.now - this.heard / 1000;
    this.ahead = message.clock - message.now;
    this.connected = true;
    this.notify(changed);
  }

  notify(changed) {
    for (const listener of this.listeners) listener(changed);
  }

  now() { return performance.now() / 1000 + this.offset; }
  // The server's clock, s since 1970, and how long ago a moment of it was, such as 1.8e9 or "2026-11-29T10:00:00Z".
  wall() { return this.now() + this.ahead; }
  since(date) { return this.wall() - (typeof date === "string" ? Date.parse(date) / 1000 : date); }
  // How old the newest word is, of the server or of the hub behind it.
  staleness() { return Math.max(this.silence(), this.age("heard") ?? 0); }
  silence() { return (performance.now() - this.heard) / 1000; }
  get(key) { return this.values.get(key)?.[1]; }
  age(key) { return this.values.has(key) ? this.now() - this.values.get(key)[0] : null; }

  // [key, value, age] of every key that begins so.
  under(beginning) {
    const found = [];
    for (const [key, [at, value]] of this.values) if (key.startsWith(beginning)) found.push([key, value, this.now() - at]);
    return found;
  }

  // Items of status of one kind: [role, item, age].
  items(kind) {
    return this.under("item/").filter(([, item]) => item.type === kind).map(([key, item, age]) => [key.split("/")[1], item, age]);
  }
}
