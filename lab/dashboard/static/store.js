// What the server's board holds, here: whole first, then numbered changes; right again after any reconnect.
//
// Times are seconds of the board's clock.  `now()` follows it between messages with this browser's monotonic clock, so a
// wall clock that jumps changes no age.  What has only a date is as old as the server's clock says (`since()`): this browser's
// may show any time.  `silence()` is how long nothing has come.

export class Store {
  constructor() {
    this.values = new Map();
    this.instance = "";
    this.number = 0;
    this.connected = false;
    this.offset = 0;
    this.ahead = NaN;
    this.heard = performance.now();
  }

  // A message of the server; null where nothing comes any more.
  take(message) {
    this.connected = Boolean(message);
    if (!message) return;
    if (message.whole) this.values.clear();
    for (const key of message.gone) this.values.delete(key);
    for (const [key, value] of Object.entries(message.set)) this.values.set(key, value);
    this.instance = message.instance;
    this.number = message.number;
    this.heard = performance.now();
    this.offset = message.now - this.heard / 1000;
    this.ahead = message.clock - message.now;
  }

  // All that is held, as the server would tell it.
  whole() {
    return { instance: this.instance, number: this.number, now: this.now(), clock: this.wall(), whole: true, set: Object.fromEntries(this.values), gone: [] };
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
