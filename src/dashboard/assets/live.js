// The little script of the dashboard: everything works without it.
// It keeps a page fresh, copies texts, and lets `/` find the search field.
"use strict";

(() => {
  const EVERY_MS = 10000; // between two looks when nothing is told
  const AT_MOST_EVERY_MS = 1500; // between two looks however much is told
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
  let lastLook = Date.now();
  let soon = null;
  let source = null;

  const word = (text) => { pulse.lastElementChild.textContent = text; };

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

  const end = () => {
    paused = true;
    if (source) source.close();
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
    try {
      const answer = await fetch(location.href, { headers: { "x-refresh": "1" }, redirect: "manual", cache: "no-store" });
      if (answer.type === "opaqueredirect" || answer.status === 401) return end();
      if (answer.ok) {
        replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
        word("Live");
      } else {
        word("No answer");
      }
    } catch {
      word("No answer");
    } finally {
      looking = false;
    }
  };

  const lookSoon = () => {
    if (soon !== null) return;
    const wait = Math.max(0, AT_MOST_EVERY_MS - (Date.now() - lastLook));
    soon = setTimeout(() => { soon = null; look(); }, wait);
  };

  const listen = () => {
    source = new EventSource("/live" + (main.dataset.live ? "?" + main.dataset.live : ""));
    source.addEventListener("change", lookSoon);
  };

  pulse.hidden = false;
  pulse.addEventListener("click", () => {
    paused = !paused;
    pulse.setAttribute("aria-pressed", String(paused));
    word(paused ? "Paused" : "Live");
    if (paused) {
      source.close();
    } else {
      listen();
      look();
    }
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) lookSoon(); });
  setInterval(look, EVERY_MS);
  listen();
})();
