// How a page follows the server: through one stream that all pages of this browser share, as a browser has six connections to a
// server and the stop button needs one.  Where a browser knows no shared workers, each page has its own.

const AGAIN_MS = 1000;
const MUTE_MS = 5000;

// Keeps `store` right from here on, and tells `tell` each message, or null once nothing comes any more.  The server says something
// each second: a stream that is mute for longer hangs on a connection that is gone (a machine that slept), and is opened anew.
export class Stream {
  constructor(store, tell = () => {}) {
    this.store = store;
    this.tell = tell;
  }

  open() {
    this.close();
    const { instance, number } = this.store;
    this.source = new EventSource(instance ? `/events?from=${instance}:${number}` : "/events");
    this.source.onmessage = (event) => {
      this.openIn(MUTE_MS);
      const message = JSON.parse(event.data);
      this.store.take(message);
      this.tell(message);
    };
    this.source.onerror = () => {
      this.source.close();
      this.openIn(AGAIN_MS);
      this.store.take(null);
      this.tell(null);
    };
    this.openIn(MUTE_MS);
  }

  openIn(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), milliseconds);
  }

  close() {
    this.source?.close();
    clearTimeout(this.timer);
  }
}

// Has `store` follow the server; the answer ends that.
export function follow(store) {
  const own = new Stream(store);
  if (!globalThis.SharedWorker) {
    own.open();
    return () => own.close();
  }
  const worker = new SharedWorker("/static/shared.js", { type: "module" });
  worker.onerror = () => own.open();
  worker.port.onmessage = ({ data }) => store.take(data);
  return () => {
    worker.port.postMessage("leaves");
    worker.port.close();
    own.close();
  };
}
