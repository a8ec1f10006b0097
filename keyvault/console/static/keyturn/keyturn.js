// Keyturn's console works without this file. It adds: relative times, dialogs, copy buttons, the 30
// seconds of a revealed secret, conditional polling, and keys. No inline handlers, no eval.
"use strict";

(() => {
  const every = (root, selector, act) => root.querySelectorAll(selector).forEach(act);

  // Times: the page says in which zone it tells them; without one, and from then on, it is the browser's.
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const full = new Intl.DateTimeFormat(undefined, {
    dateStyle: "medium", timeStyle: "short", timeZone: document.body.dataset.zone || undefined,
  });
  if (own && !document.cookie.includes(`keyturn_zone=${own}`)) {
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `keyturn_zone=${own}; path=/; max-age=31536000; samesite=lax${secure}`;
  }
  const SPANS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

  function length(seconds) {
    const [span, unit] = SPANS.find(([span]) => seconds >= span) || SPANS[3];
    return `${Math.floor(seconds / span)} ${unit}`;
  }

  function relative(seconds) {
    if (Math.abs(seconds) < 2) return "now";
    const text = length(Math.abs(seconds));
    return seconds > 0 ? `in ${text}` : `${text} ago`;
  }

  function showTime(element) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) return;
    const utc = `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
    const title = `${full.format(at)} (${utc})`;
    if (element.title !== title) element.title = title;
    const seconds = (at - Date.now()) / 1000;
    const kind = element.dataset.time;
    const text = kind === "ago" ? relative(seconds) : kind === "age" ? length(Math.max(0, -seconds)) : full.format(at);
    if (element.textContent !== text) element.textContent = text;
  }

  // Copying
  function prepareCopy(button) {
    button.hidden = !navigator.clipboard;
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    if (!source) return;
    await navigator.clipboard.writeText(source.textContent.trim());
    const label = button.querySelector("[data-label]") || button;
    const before = label.textContent;
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = before; }, 1600);
    if (button.dataset.secret !== undefined) copiedSecret = true;
  }

  // A revealed secret leaves the page, and the clipboard if it went there, when its time is over.
  let copiedSecret = false;

  function hideSecret(box) {
    every(box, "[data-secret-text]", (element) => { element.textContent = "Hidden again"; });
    every(box, "button", (button) => button.remove());
    every(box, "[data-left]", (element) => { element.textContent = "The secret is no longer on this page."; });
    if (copiedSecret && document.hasFocus()) navigator.clipboard.writeText("").catch(() => {});
    copiedSecret = false;
  }

  function countDown(box) {
    if (box.dataset.ends) return;
    box.dataset.ends = String(Date.now() + Number(box.dataset.autoHide) * 1000);
    const timer = setInterval(() => {
      const left = Math.ceil((Number(box.dataset.ends) - Date.now()) / 1000);
      if (left <= 0) {
        clearInterval(timer);
        hideSecret(box);
        return;
      }
      every(box, "[data-left]", (element) => { element.textContent = `Hides in ${left} s.`; });
    }, 500);
    addEventListener("pagehide", () => hideSecret(box), { once: true });
  }

  // Typed confirmation: the server checks it again.
  function guard(input) {
    const button = input.form.querySelector("[type=submit]");
    const check = () => { button.disabled = input.value.trim() !== input.dataset.confirm; };
    input.addEventListener("input", check);
    check();
  }

  function prepare(root) {
    every(root, "time[data-time]", showTime);
    every(root, "button[data-copy]", prepareCopy);
    every(root, "[data-auto-hide]", countDown);
    every(root, "input[data-confirm]", guard);
  }

  // Dialogs: a link or button asks the server for the form; without scripts it is a page of its own.
  document.addEventListener("htmx:afterSwap", (event) => {
    const target = event.detail.target;
    prepare(target);
    const dialog = target.closest("dialog");
    if (dialog && !dialog.open) dialog.showModal();
    every(target, "details[id]", (details) => { if (opened.has(details.id)) details.open = true; });
  });

  // How old what the page shows is: every answer, also "nothing new", makes it fresh.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.elt.id !== "live") return;
    every(document, "[data-updated]", (line) => {
      const time = line.querySelector("time");
      line.classList.toggle("hot", !event.detail.successful);
      line.firstChild.textContent = event.detail.successful ? "Updated " : "The server does not answer. Updated ";
      if (event.detail.successful) time.dateTime = new Date().toISOString();
      showTime(time);
    });
  });

  // Polling: ask with the tag of what is shown; the server then answers 304 and nothing moves.
  const tags = new WeakMap();
  const opened = new Set();

  document.addEventListener("htmx:configRequest", (event) => {
    const tag = tags.get(event.detail.elt);
    if (tag && event.detail.verb === "get") event.detail.headers["If-None-Match"] = tag;
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target, requestConfig } = event.detail;
    const tag = xhr.getResponseHeader("ETag");
    if (tag && requestConfig) tags.set(requestConfig.elt, tag);
    opened.clear();
    every(target, "details[id][open]", (details) => opened.add(details.id));
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.copy) copy(button);
    const close = event.target.closest("dialog [data-close]");
    if (close) {
      event.preventDefault();
      close.closest("dialog").close();
    }
    if (event.target.tagName === "DIALOG") event.target.close();
    if (event.target.closest("[data-help]")) help.showModal();
  });

  document.addEventListener("change", (event) => {
    if (event.target.dataset.submit !== undefined) event.target.form.requestSubmit();
  });

  // Passkeys: a person who cancels, or a browser that cannot, is told so on the page.
  document.addEventListener("allauth.error", (event) => {
    event.preventDefault();
    every(document, "[data-passkey-error]", (box) => { box.hidden = false; });
  });

  // Keys: "/" searches, "g" and a letter goes to a page, "?" lists them. Dialogs are native: Esc closes them.
  let going = 0;
  const PLACES = {
    o: "overview", m: "matrix", k: "keys", r: "rotations", c: "consumers", e: "emergency", a: "audit",
  };
  const help = document.getElementById("help");

  function search() {
    const field = document.querySelector("main input[type=search]") || document.getElementById("find");
    if (!field) return;
    field.focus();
    field.select();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    if (event.key === "/") {
      search();
      event.preventDefault();
      return;
    }
    if (event.key === "?" && help) help.showModal();
    if (Date.now() - going < 1200 && event.key === "s") document.getElementById("find")?.form.submit();
    if (Date.now() - going < 1200 && PLACES[event.key]) {
      const link = document.querySelector(`[data-place="${PLACES[event.key]}"]`);
      if (link) link.click();
    }
    going = event.key === "g" ? Date.now() : 0;
  });

  setInterval(() => every(document, 'time[data-time="ago"]', showTime), 1000);
  prepare(document);
  every(document, "[data-help]", (button) => { button.hidden = false; });
})();
