// What an operator does from a page.  Stopping is done at once, also while a question is open; everything else is asked in words
// first, with the dashboard's token, which this browser tab keeps; whatever the server answers is shown in its own words.

import { h, say } from "/static/dom.js";

const TOKEN = "token";
// Longer than any role takes to be dark, or to be ended.
const STOP_MS = 15_000;

// A dialog that asks `question` and does the action `name` with `body()` once it is confirmed.  `fields` are inputs inside of it; `done`
// gets the server's answer.
export function ask(name, question, body, fields = [], done = () => {}) {
  const told = h("p", { role: "status" });
  const token = h("input", { type: "password", autocomplete: "off", required: true });
  const asked = h("p", {}, h("label", {}, "Token ", token), h("span", { class: "note" }, " The dashboard printed it when it started; it stands in dashboard/token in the state folder."));
  const go = h("button", { type: "submit" }, "Do it");
  const leave = h("button", { type: "button", onclick: () => dialog.close() }, "Leave it");
  const halt = h("button", { type: "button", class: "stop", onclick: () => { dialog.close(); stop(); } }, "STOP SAFELY");
  const form = h("form", { method: "dialog" }, h("p", {}, question), fields, asked, told, h("p", { class: "buttons" }, go, leave, halt));
  const dialog = h("dialog", { "aria-label": question }, form);
  const kept = sessionStorage.getItem(TOKEN);
  if (kept) token.value = kept;
  asked.hidden = Boolean(kept);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    say(told, "Asking ...");
    const answer = await sent(name, body(), token.value);
    go.disabled = false;
    say(told, answer.text);
    if (answer.status === 403) {
      sessionStorage.removeItem(TOKEN);
      asked.hidden = false;
      token.focus();
    } else if (answer.ok) {
      sessionStorage.setItem(TOKEN, token.value);
      go.remove();
      say(leave, "Close");
      done(answer.answer);
    }
  });
  const from = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    from?.focus?.();
  });
  document.body.append(dialog);
  dialog.showModal();
}

// Needs neither token nor question.
export async function stop() {
  const told = document.getElementById("stopped");
  told.hidden = false;
  told.className = "pending";
  say(told, "Stopping: light off at every role of this machine ...");
  try {
    const answer = await (await fetch("/api/stop", { method: "POST", signal: AbortSignal.timeout(STOP_MS) })).json();
    told.className = answer.ok ? "good" : "bad";
    say(told, answer.error ?? answer.roles.map((each) => each.text).join("\n"));
  } catch (error) {
    told.className = "bad";
    say(told, `The dashboard does not answer (${error.message}). At the machine: qunetlab stop TESTBED, or the laser's key switch.`);
  }
}

// {ok, status, text, answer} of an action; also where nobody answers, or not in our words.
export async function sent(name, body, token) {
  try {
    const answer = await fetch(`/api/act/${name}`, { method: "POST", headers: { Authorization: `Bearer ${encodeURIComponent(token)}`, "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const told = await answer.json();
    return { ok: answer.ok, status: answer.status, text: answer.ok ? told.answer.text : `Not done: ${told.error}`, answer: told.answer };
  } catch (error) {
    return { ok: false, status: 0, text: `Not known whether it was done: the dashboard did not answer (${error.message}). What is shown behind this tells.` };
  }
}
