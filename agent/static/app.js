// Keeps the status page current: puts changed pieces in place, by a stream, or every 5 s if there is none.
"use strict";

(() => {
  const POLL_MS = 5000; // without a stream
  const SILENCE_MS = 25000; // the stream says something every 10 s
  const AGAIN_MS = 60000; // between two attempts to have a stream

  const main = document.getElementById("app");
  const lost = document.getElementById("lost");
  const language = document.documentElement.lang;
  // "en" alone would mean American clocks: the reader's own kind of that language, if the browser tells it
  const locale = navigator.languages.find((l) => l.slice(0, 2) === language && l.length > 2) || language;
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const today = new Intl.DateTimeFormat(locale, clock);
  const before = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", ...clock });
  const long = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });

  let stream = null;
  let silence = 0;
  let timer = 0;
  let tried = 0;

  // Moments come in UTC; the reader's zone is known here alone.
  const localise = (root) => {
    for (const time of root.querySelectorAll("time")) {
      const at = new Date(time.dateTime);
      if (isNaN(at)) continue;
      time.textContent = (at.toDateString() === new Date().toDateString() ? today : before).format(at);
      time.title = long.format(at);
    }
  };

  const same = (root, old) =>
    [...root.querySelectorAll(old.tagName)].find((e) => e.name === old.name && e.value === old.value) ||
    root.querySelector("button");

  // The pieces are HTML that the adapter made and escaped.
  const show = (pieces) => {
    for (const [name, piece] of Object.entries(pieces)) {
      if (name === "#title") document.title = piece;
      else if (name === "#shape" && piece !== main.dataset.shape) return location.reload();
      else if (name === "@app") main.className = piece;
      else {
        const element = document.getElementById(name);
        if (!element || element.innerHTML === piece) continue;
        const focus = element.contains(document.activeElement) ? document.activeElement : null;
        element.innerHTML = piece;
        localise(element);
        if (focus) same(element, focus)?.focus(); // who steers by keyboard stays where he was
      }
    }
  };

  const heard = (so) => {
    const text = so ? "" : lost.dataset.text;
    if (lost.textContent !== text) lost.textContent = text;
    document.body.classList.toggle("stale", !so);
  };

  const poll = async () => {
    clearTimeout(timer);
    try {
      const answer = await fetch("/api/page", { cache: "no-store", signal: AbortSignal.timeout(POLL_MS) });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(answer.statusText);
      show(await answer.json());
      heard(true);
    } catch {
      heard(false);
    }
    if (Date.now() - tried >= AGAIN_MS) listen();
    else timer = setTimeout(poll, POLL_MS);
  };

  const fallBack = () => {
    clearTimeout(silence);
    if (stream) stream.close();
    stream = null;
    poll();
  };

  const listen = () => {
    tried = Date.now();
    stream = new EventSource("/api/stream");
    const alive = () => {
      heard(true);
      clearTimeout(silence);
      silence = setTimeout(fallBack, SILENCE_MS);
    };
    stream.onmessage = (event) => {
      alive();
      show(JSON.parse(event.data));
    };
    stream.addEventListener("alive", alive);
    stream.addEventListener("end", () => location.reload());
    stream.onerror = () => {
      if (stream && stream.readyState === EventSource.CLOSED) fallBack();
      else heard(false); // the browser tries again by itself
    };
    silence = setTimeout(fallBack, SILENCE_MS);
  };

  // Forms that need not leave the page.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!("live" in form.dataset)) return;
    event.preventDefault();
    const fields = new URLSearchParams(new FormData(form));
    if (event.submitter) fields.set(event.submitter.name, event.submitter.value);
    const said = form.querySelector(".said");
    const buttons = form.querySelectorAll("button");
    buttons.forEach((b) => (b.disabled = true));
    try {
      const answer = await fetch(form.action, { method: "POST", body: fields, headers: { Accept: "application/json" } });
      const told = await answer.json();
      said.textContent = answer.ok ? told.said || "" : told.error;
      said.classList.toggle("well", answer.ok);
    } catch {
      said.classList.remove("well");
      said.textContent = lost.dataset.text;
    }
    buttons.forEach((b) => (b.disabled = false));
    if (event.submitter) event.submitter.focus();
  });

  localise(document);
  listen();
})();
