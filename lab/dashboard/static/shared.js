// The stream of all pages of this browser, as a shared worker: open while any page follows; a page that comes is told everything at
// once, one that leaves says so.

import { Store } from "/static/store.js";
import { Stream } from "/static/stream.js";

const store = new Store();
const pages = new Set();
const comers = new Set();
const stream = new Stream(store, tell);

function tell(message) {
  for (const page of pages) page.postMessage(message && comers.delete(page) ? store.whole() : message);
}

globalThis.onconnect = ({ ports: [page] }) => {
  page.onmessage = () => {
    pages.delete(page);
    comers.delete(page);
    if (!pages.size) stream.close();
  };
  if (!pages.size) stream.open();
  pages.add(page);
  if (pages.size > 1 && store.connected) page.postMessage(store.whole());
  else comers.add(page);
};
