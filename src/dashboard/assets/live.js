// The little script of the dashboard: everything works without it.
// It keeps a page fresh, copies texts, and lets `/` find the search field.
"use strict";

(() => {
  const EVERY_MS = 10000; // between two looks when nothing is told
  const AT_MOST_EVERY_MS = 1500; // between two looks however much is told
  const PATIENCE_MS = 20000; // for the answer to a look
  const main = document.getElementById("main");
  const pulse = document.getElementById("pulse");

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const find = document.getElementById("find");
    if (find) {
      event.preventDefault();
      find.focus();
      find.select();
    }
  });

  const showCopyButtons = (root) => {
    if (!navigator.clipboard) return;
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  showCopyButtons(document);

  if (!main || main.dataset.live === undefined || !pulse) return;

  let paused = false;
  let looking = false;
  let answered = true;
  let lastLook = Date.now();
  let soon = null;
  let source = null;

  // "Live" is what the relay tells; without that a page looks by itself, and says so.
  const say = () => {
    let text = `Every ${EVERY_MS / 1000} s`;
    if (source && source.readyState === EventSource.CONNECTING) text = "Connecting";
    if (source && source.readyState === EventSource.OPEN) text = "Live";
    if (!answered) text = "No answer";
    pulse.lastElementChild.textContent = paused ? "Paused" : text;
  };

  const replace = (fresh) => {
    for (const next of fresh.querySelectorAll("[data-live][id]")) {
      const old = document.getElementById(next.id);
      // Whoever is in there with the keyboard or reads a text marked there is not disturbed.
      if (!old || next.id === "main" || old.contains(document.activeElement)) continue;
      const marked = document.getSelection();
      if (marked && !marked.isCollapsed && old.contains(marked.anchorNode)) continue;
      if (old.outerHTML === next.outerHTML) continue;
      const open = [...old.querySelectorAll("details")].map((details) => details.open);
      const node = document.importNode(next, true);
      node.querySelectorAll("details").forEach((details, n) => { if (open[n]) details.open = true; });
      old.replaceWith(node);
      showCopyButtons(node);
    }
  };

  // A browser has six connections for one host. A tab that nobody sees must not keep one, or the sixth would hang them all.
  const hush = () => {
    if (source) source.close();
    source = null;
  };

  const listen = () => {
    if (source && source.readyState === EventSource.CLOSED) source = null;
    if (source || paused || document.hidden) return;
    source = new EventSource("/live" + (main.dataset.live ? "?" + main.dataset.live : ""));
    source.addEventListener("change", lookSoon);
    source.addEventListener("open", say);
    source.addEventListener("error", say);
  };

  const end = () => {
    paused = true;
    hush();
    const notice = document.createElement("p");
    notice.className = "notice warn";
    notice.setAttribute("role", "status");
    const again = document.createElement("a");
    again.href = "/login?to=" + encodeURIComponent(location.pathname + location.search);
    again.textContent = "Log in again";
    notice.append("Your session is over, and this page is not fresh any more. ", again, ".");
    main.prepend(notice);
    pulse.hidden = true;
  };

  const look = async () => {
    if (paused || looking || document.hidden) return;
    looking = true;
    lastLook = Date.now();
    listen(); // again, if it was refused
    try {
      const answer = await fetch(location.href, {
        headers: { "x-refresh": "1" }, redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (answer.status === 401) return end();
      if (answer.type === "opaqueredirect") return location.reload(); // what was searched for has come, and is another page
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      answered = answer.ok;
    } catch {
      answered = false;
    } finally {
      looking = false;
    }
    say();
  };

  const lookSoon = () => {
    if (soon !== null) return;
    const wait = Math.max(0, AT_MOST_EVERY_MS - (Date.now() - lastLook));
    soon = setTimeout(() => { soon = null; look(); }, wait);
  };

  pulse.hidden = false;
  pulse.addEventListener("click", () => {
    paused = !paused;
    pulse.setAttribute("aria-pressed", String(paused));
    if (paused) {
      hush();
    } else {
      listen();
      look();
    }
    say();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      hush();
    } else {
      listen();
      look();
    }
    say();
  });
  setInterval(look, EVERY_MS);
  listen();
  say();
})();
