// A person at the dashboard, in Chromium: `node walk.mjs PLAN.json`, started by `tests/dashboard/browser.rs`.
//
// Every step checks something and says so; the first that fails ends the walk with exit code 1.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createConnection } from "node:net";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(`${plan.modules}/`);
const { chromium } = require("playwright-core");
const axeSource = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const { ids } = plan;
const PATIENCE_MS = 45000;
const DESK = { width: 1280, height: 900 };
const PHONE = { width: 360, height: 740 };

const troubles = [];
const browser = await chromium.launch({
  executablePath: plan.chromium,
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
  ],
});

/// A browser of its own, with an eye on its console: what the policy forbids is said there.
async function visit(options = {}) {
  const context = await browser.newContext({ baseURL: plan.url, viewport: DESK, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const expected = { statuses: [] };
  page.on("pageerror", (error) => troubles.push(`${page.url()}: ${error}`));
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    // Chromium reports answers like 403 there, too; a step says which it wants.
    const status = /status of (\d+)/.exec(message.text())?.[1];
    if (status && expected.statuses.includes(Number(status))) return;
    troubles.push(`${page.url()}: console ${message.type()}: ${message.text()}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(plan.url)) troubles.push(`${page.url()} asked for ${request.url()}`);
  });
  return { context, page, expected };
}

async function step(name, what) {
  try {
    await what();
  } catch (error) {
    console.log(`FAILED ${name}`);
    throw error;
  }
  assert.deepEqual(troubles, [], `${name}: the console is silent`);
  console.log(`ok     ${name}`);
}

async function axe(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axeSource });
  await session.detach();
  const result = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  const found = result.violations.map((one) =>
    `${one.id}: ${one.help}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join(" | ")}`);
  assert.deepEqual(found, [], `axe on ${page.url()}`);
}

const picture = (page, name, options = {}) => page.screenshot({ path: `${plan.pictures}/${name}.png`, ...options });

async function logIn(page, path = "/") {
  await page.goto(path);
  await page.fill("#token", plan.token);
  await page.click(".login button");
  await page.waitForSelector("header.top");
}

/// Sends one message as a stranger's server would.
function mail(to, subject) {
  return new Promise((resolve, reject) => {
    const socket = createConnection(plan.smtp.port, plan.smtp.host);
    const lines = [
      "EHLO far.test", "MAIL FROM:<bob@far.test>", `RCPT TO:<${to}>`, "DATA",
      `From: <bob@far.test>\r\nTo: <${to}>\r\nSubject: ${subject}\r\n\r\nHello.\r\n.`, "QUIT",
    ];
    let id = "";
    let heard = "";
    socket.setTimeout(PATIENCE_MS, () => reject(new Error("SMTP does not answer")));
    socket.on("error", reject);
    socket.on("close", () => (id ? resolve(id) : reject(new Error(`not taken: ${heard}`))));
    socket.on("data", (data) => {
      heard += data;
      let end;
      while ((end = /^\d{3} .*\r\n/m.exec(heard))) {
        id = / queued as (\w+)/.exec(end[0])?.[1] ?? id;
        heard = heard.slice(end.index + end[0].length);
        if (lines.length > 0) socket.write(`${lines.shift()}\r\n`);
      }
    });
  });
}

const pages = [
  "/", "/lanes", `/lanes/${ids.gateway}`, `/lanes/${ids.gateway}/replay`, "/items", "/items?q=nothing%40nowhere.test&since=1h",
  "/items?state=bogus", `/items/${ids.delivered}`, `/items/${ids.failed}`, `/items/${ids.waiting}`, `/items/${ids.old}`,
  `/items/${ids.delivered}/purge`, "/deliveries/pause", "/dns", "/lanes/nobody",
];

const { context, page, expected } = await visit();

await step("a stranger is asked for the token, and a wrong one is refused", async () => {
  await page.goto(`/items/${ids.delivered}`);
  assert.equal(new URL(page.url()).pathname, "/login");
  assert.equal(await page.evaluate(() => document.activeElement.id), "token");
  await axe(page);
  await picture(page, "login");
  expected.statuses = [403];
  await page.fill("#token", "a-wrong-token-of-some-length-0123456789");
  await page.click(".login button");
  await page.waitForSelector("[role=alert]");
  assert.match(await page.textContent("[role=alert]"), /not the token/);
  await axe(page);
  expected.statuses = [];
});

await step("the right token leads to the page that was asked for", async () => {
  await page.fill("#token", plan.token);
  await page.click(".login button");
  await page.waitForURL(`**/items/${ids.delivered}`);
  assert.match(await page.textContent("h1"), /Minutes of the meeting <b>on Monday<\/b>/);
  const cookies = await context.cookies();
  assert.equal(cookies.length, 1);
  assert.ok(cookies[0].httpOnly && cookies[0].sameSite === "Strict", JSON.stringify(cookies));
  assert.equal(await page.evaluate(() => document.cookie), "", "no script can read it");
});

await step("the overview says how it is, with six pictures of the last hour", async () => {
  await page.click("nav >> text=Overview");
  await page.waitForSelector("text=Ready for mail");
  assert.equal(await page.locator("figure.chart svg[role=img]").count(), 6);
  // The step that is under way is not history yet.
  await page.waitForFunction(() => /Last hour: [1-9]/.test(document.querySelector("#chart-in svg").getAttribute("aria-label")));
  await page.waitForFunction(() => /1 sent/.test(document.querySelector("#chart-out").textContent));
  assert.match(await page.locator("#tiles").textContent(), /Gateways1of 20\d lanes/);
  await picture(page, "overview-light", { fullPage: true });
});

await step("a new message appears by itself", async () => {
  await page.waitForSelector("#pulse:not([hidden])");
  const id = await mail(`box5@our.test`, "Fresh bread");
  await page.waitForSelector(`#newest a[href="/items/${id}"]`);
  await page.click("#pulse");
  assert.equal(await page.getAttribute("#pulse", "aria-pressed"), "true", "and it can be made to stand still");
  await page.click("#pulse");
});

await step("eight tabs are open, and the eighth is there as soon as the first", async () => {
  const { context: many, page: first } = await visit();
  // Here every page counts as seen; for a person the tab behind is hidden.
  await many.addInitScript(() => {
    let hidden = false;
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    globalThis.turn = (away) => {
      hidden = away;
      document.dispatchEvent(new Event("visibilitychange"));
    };
  });
  const turn = (tab, away) => tab.evaluate((to) => globalThis.turn(to), away);
  const isLive = (tab) => tab.waitForFunction(() => document.querySelector("#pulse").textContent.trim() === "Live");
  await logIn(first);
  await isLive(first);
  for (let n = 2; n <= 8; n += 1) {
    await turn(many.pages().at(-1), true);
    const tab = await many.newPage();
    await tab.goto("/");
    await isLive(tab);
  }
  await turn(many.pages().at(-1), true);
  await turn(first, false);
  await isLive(first);
  const id = await mail(`box6@our.test`, "Fresh butter");
  await first.waitForSelector(`#newest a[href="/items/${id}"]`);
  await many.close();
});

await step("who waits for a mailbox is led to it when it is there", async () => {
  await page.goto(`/lanes?q=${plan.absent}`);
  await page.waitForSelector("text=No mailbox is called");
  const made = await fetch(`${plan.url.replace("localhost", "127.0.0.1")}/admin/mailboxes`, {
    method: "POST",
    headers: { authorization: `Bearer ${plan.token}`, "content-type": "application/json" },
    body: JSON.stringify({ key: plan.absent }),
  });
  assert.ok(made.ok, `${made.status}`);
  await page.waitForURL(`**/lanes/${plan.absent}`);
  await page.waitForSelector("#lane");
  assert.equal(await page.locator("text=Your session is over").count(), 0);
});

await step("lanes lead to a lane, its gateway and its messages", async () => {
  await page.click("nav >> text=Lanes");
  await page.waitForSelector("table >> text=box0@our.test");
  await page.click("text=Next lanes");
  await page.waitForSelector("table >> text=box150@our.test");
  await page.fill("#name", "box7@our.test");
  await page.keyboard.press("Enter");
  await page.waitForSelector("h1 >> text=box7@our.test");
  assert.match(await page.locator("#lane").textContent(), /away/);
  assert.equal(await page.locator("#lane-items tbody tr").count(), 25);
  await page.goto(`/lanes/${ids.gateway}`);
  assert.match(await page.locator("#lane").textContent(), /connected/);
  assert.equal(await page.locator("#lane code.mono").first().textContent(), ids.gateway, "the whole key, to be copied");
});

await step("a slash finds the search, and the search finds one in a hundred thousand", async () => {
  await page.goto("/items");
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "find");
  await page.keyboard.type("sender99321@");
  await page.keyboard.press("Enter");
  await page.waitForSelector("text=sender99321@far.test");
  assert.equal(await page.locator("table.items tbody tr").count(), 1);
  await page.fill("#q", ids.old);
  await page.click("button >> text=Search");
  await page.waitForURL(`**/items/${ids.old}`);
  assert.match(await page.textContent("h1"), /Report 77777 of the night/);
});

/// Opens a search, and goes on with it until it has found something.
async function searchBack(path) {
  await page.goto(path);
  for (let looked = 1; (await page.locator("table.items").count()) === 0; looked += 1) {
    assert.ok(looked < 30, "it ends");
    await page.click("text=Look further back");
    await page.waitForLoadState();
  }
}

await step("a search far back goes on until it finds", async () => {
  await searchBack("/items?q=sender90001%40");
  assert.match(await page.locator("table.items").textContent(), /sender90001@far\.test/);
});

await step("pages go from the newest to the older ones, and selectors narrow them", async () => {
  await page.goto("/items");
  const first = await page.locator("table.items tbody tr").first().textContent();
  assert.equal(await page.locator("table.items tbody tr").count(), 50);
  await page.click("text=Older");
  await page.waitForSelector("text=Newest");
  assert.notEqual(await page.locator("table.items tbody tr").first().textContent(), first);
  await page.click("text=Newest");
  await page.selectOption("#direction", "out");
  await page.click("button >> text=Search");
  await page.waitForURL(/direction=out/);
  assert.equal(await page.locator("table.items tbody tr").count(), 3);
  await page.selectOption("#state", "failed");
  await page.click("button >> text=Search");
  await page.waitForURL(/state=failed/);
  assert.equal(await page.locator("table.items tbody tr").count(), 1);
  await page.click("summary");
  await page.fill("#lane", "box9@our.test");
  await page.selectOption("#direction", "");
  await page.selectOption("#state", "");
  await page.click("button >> text=Search");
  await page.waitForURL(/lane=box9/);
  assert.equal(await page.locator("table.items tbody tr").count(), 50);
  assert.ok(await page.locator("details.more").evaluate((details) => details.open), "what is set is seen");
});

await step("the timeline tells each attempt, and what servers say is text", async () => {
  await page.goto(`/items/${ids.failed}`);
  assert.match(await page.locator("#timeline").textContent(), /550 5\.1\.1.*<b>no<\/b> such mailbox/s);
  assert.equal(await page.locator("#timeline b").count(), 0);
  await page.goto(`/items/${ids.waiting}`);
  assert.ok((await page.locator("#timeline .attempt").count()) >= 2);
  assert.match(await page.locator("#timeline").textContent(), /next try/);
  assert.match(await page.locator("#story").textContent(), /later\.test/, "the explanation");
});

/// Confirms the change that a button of an item's page offers.
async function change(id, button, confirm) {
  await page.goto(`/items/${id}`);
  await page.click(`#actions >> text=${button}`);
  await page.waitForSelector("div.question");
  await page.click(`div.question button >> text=${confirm}`);
  await page.waitForSelector("[role=status]");
}

await step("hold and release, with the reason in the timeline", async () => {
  await page.goto(`/items/${ids.old}`);
  await page.click("#actions >> text=Hold");
  await page.waitForSelector("div.question");
  await axe(page);
  await picture(page, "confirm");
  await page.click("text=Go back");
  await page.waitForSelector("#timeline");
  assert.doesNotMatch(await page.locator("#timeline").textContent(), /held/, "nothing happened yet");
  await page.click("#actions >> text=Hold");
  await page.fill("#reason", "asked by <the owner>");
  await page.click("div.question button >> text=Hold");
  await page.waitForSelector("text=Held. It stays until you release it.");
  assert.match(await page.locator("#timeline").textContent(), /held.*asked by <the owner>/s);
  await searchBack("/items?state=held");
  assert.equal(await page.locator("table.items tbody tr").count(), 1);
  await change(ids.old, "Release", "Release");
  await page.waitForSelector("text=Released.");
});

await step("what is not possible any more says why", async () => {
  await page.goto(`/items/${ids.old}/release`);
  expected.statuses = [409];
  await page.click("div.question button >> text=Release");
  await page.waitForSelector("[role=alert]");
  await axe(page);
  expected.statuses = [];
});

await step("a delivered message is replayed, and its gateway has it again", async () => {
  await change(ids.delivered, "Replay", "Replay");
  const story = page.locator("#timeline");
  await page.waitForFunction(() => (document.querySelector("#timeline").textContent.match(/acked/g) ?? []).length >= 2);
  assert.match(await story.textContent(), /acked.*ready.*acked/s);
  await page.goto(`/lanes/${ids.gateway}`);
  await page.click("text=Replay…");
  await page.selectOption("#span", "24h");
  await page.click("div.question button >> text=Replay");
  await page.waitForSelector("text=/\\d+ messages? offered again/");
});

await step("a submission is retried and cancelled", async () => {
  await change(ids.waiting, "Try now", "Try now");
  await page.waitForFunction(() => document.querySelectorAll("#timeline .attempt").length >= 3);
  await change(ids.waiting, "Cancel delivery", "Cancel delivery");
  assert.match(await page.locator("#story").textContent(), /failed/);
});

await step("a message is purged", async () => {
  await change(ids.old, "Purge", "Purge");
  assert.match(await page.locator("#story").textContent(), /purged/);
  assert.match(await page.textContent("main"), /not kept any more/);
  assert.equal(await page.locator("#actions a").count(), 0);
});

await step("deliveries are paused and go on", async () => {
  await page.goto("/deliveries/pause");
  await page.fill("#reason", "moving house");
  await page.click("div.question button >> text=Pause deliveries");
  await page.waitForSelector("#deliveries >> text=moving house");
  await axe(page);
  await picture(page, "paused");
  await page.click("text=Resume…");
  await page.click("div.question button >> text=Resume deliveries");
  await page.waitForSelector("text=Deliveries go on.");
});

await step("a message is downloaded as a file", async () => {
  await page.goto(`/items/${ids.delivered}`);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("text=Download the message")]);
  assert.equal(download.suggestedFilename(), `${ids.delivered}.eml`);
  assert.match(readFileSync(await download.path(), "utf8"), /Subject: Minutes of the meeting/);
});

await step("axe has nothing against any page, in the light and in the dark", async () => {
  expected.statuses = [404];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const path of pages) {
      await page.goto(path);
      await axe(page);
    }
  }
  await page.goto("/items?lane=box9%40our.test");
  await axe(page);
  await page.goto("/");
  await page.waitForSelector("figure.chart");
  await picture(page, "overview-dark", { fullPage: true });
  await page.goto(`/items/${ids.failed}`);
  await picture(page, "timeline-dark", { fullPage: true });
  await page.goto("/dns");
  await picture(page, "dns-dark", { fullPage: true });
  await page.emulateMedia({ colorScheme: "light" });
  for (const [name, path] of [
    ["lanes", "/lanes"], ["lane", `/lanes/${ids.gateway}`], ["items", "/items"], ["timeline-light", `/items/${ids.failed}`],
    ["item-light", `/items/${ids.delivered}`], ["dns-light", "/dns"],
  ]) {
    await page.goto(path);
    await picture(page, name, { fullPage: true });
  }
  expected.statuses = [];
});

await step("everything is reached by keyboard, in order, and what has the focus is seen", async () => {
  await page.goto("/items");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.goto("/items");
  const seen = [];
  for (let n = 0; n < 40; n += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const { activeElement: element } = document;
      const style = getComputedStyle(element);
      const all = [...document.querySelectorAll("a, button, input, select, summary")];
      return {
        place: all.indexOf(element),
        name: element.textContent.trim().slice(0, 30) || element.id,
        outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        visible: element.getClientRects().length > 0,
      };
    });
    assert.ok(at.outline && at.visible, `${at.name} is seen`);
    seen.push(at.place);
  }
  const sorted = [...seen].sort((a, b) => a - b);
  assert.deepEqual(seen, sorted, "the order on the page is the order of the keyboard");
  assert.equal(new Set(seen).size, seen.length);
});

await step("no page is wider than a phone", async () => {
  const { context: small, page: phone, expected: wanted } = await visit({ viewport: PHONE, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
  wanted.statuses = [404];
  await phone.goto("/login");
  assert.ok((await phone.evaluate(() => document.documentElement.scrollWidth)) <= PHONE.width);
  await logIn(phone);
  for (const path of pages) {
    await phone.goto(path);
    const wide = await phone.evaluate((width) => [
      document.documentElement.scrollWidth,
      [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > width + 1 && !e.closest(".unseen"))
        .slice(0, 3).map((e) => e.outerHTML.slice(0, 120)),
    ], PHONE.width);
    assert.ok(wide[0] <= PHONE.width && wide[1].length === 0, `${path}: ${JSON.stringify(wide)}`);
    await axe(phone);
  }
  for (const [name, path] of [["phone-overview", "/"], ["phone-items", "/items"], ["phone-item", `/items/${ids.failed}`], ["phone-lanes", "/lanes"], ["phone-dns", "/dns"]]) {
    await phone.goto(path);
    await picture(phone, name);
  }
  await small.close();
});

await step("who wants no motion gets none", async () => {
  const { context: calm, page: still } = await visit({ reducedMotion: "reduce" });
  await logIn(still);
  const moving = await still.evaluate(() =>
    [...document.querySelectorAll("*")].filter((element) => {
      const style = getComputedStyle(element);
      return style.transitionDuration.split(",").some((time) => parseFloat(time) > 0) || style.animationName !== "none";
    }).length);
  assert.equal(moving, 0);
  await calm.close();
});

await step("it works without script", async () => {
  const { context: plain, page: quiet } = await visit({ javaScriptEnabled: false });
  await logIn(quiet, "/items");
  await quiet.fill("#q", "sender99000@");
  await quiet.click("button >> text=Search");
  await quiet.click("table.items a >> text=sender99000@far.test");
  await quiet.click("#actions >> text=Hold");
  await quiet.click("div.question button >> text=Hold");
  await quiet.waitForSelector("text=Held. It stays until you release it.");
  await quiet.click("#actions >> text=Release");
  await quiet.click("div.question button >> text=Release");
  await quiet.waitForSelector("text=Released.");
  await plain.close();
});

await step("a logout is the end for every page that is open", async () => {
  const other = await context.newPage();
  await other.goto("/");
  await page.goto("/items");
  await page.click("text=Log out");
  await page.waitForURL("**/login");
  await page.goto("/lanes");
  assert.equal(new URL(page.url()).pathname, "/login");
  await other.waitForSelector("text=Your session is over");
  await other.close();
});

await browser.close();
assert.deepEqual(troubles, []);
console.log("walk: done");
