// The frame of every page: navigation, clock, theme, banner, the stop button; and which page is shown.

import { stop } from "/static/act.js";
import { each, h, say } from "/static/dom.js";
import { ago, attackTold } from "/static/format.js";
import { Store } from "/static/store.js";
import { follow } from "/static/stream.js";

const REDRAW_MS = 250;
const RELOAD_MS = 5000;
const LOST_S = 1.8;
const STALE_S = 5;

const store = new Store();
const element = (id) => document.getElementById(id);
let page = null;

function frame() {
  element("theme").addEventListener("click", turnTheme);
  element("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "s") {
      event.preventDefault();
      stop();
    }
  });
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
}

// The server's list of pages.
function navigate() {
  const here = location.pathname.slice(1);
  each(element("nav"), store.get("pages") ?? [], ([path]) => path, ([path, title]) =>
    h("a", { href: `/${path}`, "aria-current": path === here ? "page" : null, "data-page": path }, title), () => {});
}

function turnTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
}

function tick() {
  const silence = store.silence();
  const lost = (store.number && !store.connected) || silence > LOST_S;
  const link = store.get("link");
  const heard = store.age("heard");
  const mute = heard !== null && heard > LOST_S;
  const text = lost ? `No connection to the dashboard for ${ago(silence)}; trying again. What is shown is old.`
    : link ? `No link to the orchestrator: ${link}`
      : mute ? `The orchestrator has said nothing for ${ago(heard)}.` : "";
  element("banner").hidden = !text;
  say(element("banner"), text);
  const attack = store.get("attack");
  element("attacked").hidden = !attack?.name;
  say(element("attacked"), attack?.name ? `SIMULATED ATTACK ON: ${attackTold(store, attack)}. What is shown is its doing.` : "");
  document.body.classList.toggle("stale", store.staleness() > STALE_S);
  navigate();
  if (store.number) say(element("clock"), new Date(1000 * store.wall()).toLocaleTimeString("en-GB"));
  const name = store.get("testbed")?.name;
  if (name) {
    say(element("name"), name);
    document.title = `${name}: ${document.querySelector("#nav [aria-current]")?.textContent ?? "qunetlab"}`;
  }
  page?.update();
  if (page && store.number) element("main").dataset.drawn ??= Math.round(performance.now());
}

async function show() {
  const here = location.pathname.slice(1);
  try {
    const module = await import(`/static/pages/${here || "wall"}.js`);
    page = module.mount(element("main"), store);
  } catch (error) {
    say(element("main"), `This page cannot be drawn: ${error.message}. It is loaded again in a moment; qunetlab status tells the same in a terminal.`);
    setTimeout(() => location.reload(), RELOAD_MS);
  }
  tick();
}

frame();
// A page that nobody sees follows nothing: what it missed would pile up while the browser has it asleep.  It is told everything once seen.
let leave = () => {};
function seen() {
  leave();
  leave = document.hidden ? () => {} : follow(store);
}
document.addEventListener("visibilitychange", seen);
seen();
setInterval(tick, REDRAW_MS);
show();
