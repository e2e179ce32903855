// The page's one program: it signs what you press and shows what came back. It never guesses: an answer that did not
// arrive is "unknown", not success and not failure. No dependency; text goes in as text, never as markup.

const RESEND_MS = 60_000; // how long a lost verb is asked for again without a person
const SILENCE_MS = 25_000; // the stream pings every 10 s; longer silence is a dead line
const LOCK_MS = 60_000; // no lock lasts longer without offering "Try anyway"
const REFRESH_MS = 15_000;
const HEALTH_MS = 10_000;
const STALE_MS = 60_000;

// The one state machine. {label} is the verb's name, {what} names it inside a sentence.
const PHASES = {
  locked: { shape: "□", tone: "", word: "Locked.", sentence: "Enter the signing key." },
  idle: { shape: "●", tone: "good", word: "Ready.", sentence: "" },
  checking: { shape: "◌", tone: "", word: "{label}:", sentence: "asking the host…" },
  running: { shape: "◐", tone: "warn", word: "{label} sent.", sentence: "Waiting for the host to finish it." },
  done: { shape: "✓", tone: "good", word: "{label}: done", sentence: "" },
  notSent: { shape: "○", tone: "warn", word: "Nothing was sent:", sentence: "" },
  refused: { shape: "◇", tone: "warn", word: "Nothing was changed:", sentence: "" },
  busy: { shape: "◑", tone: "warn", word: "Busy; nothing was changed:", sentence: "" },
  failed: { shape: "▲", tone: "bad", word: "{label} failed:", sentence: "" },
  unknown: { shape: "?", tone: "warn", word: "No answer.", sentence: "The {what} may have happened; asking the host…" },
  disconnected: { shape: "✕", tone: "bad", word: "Handler not answering", sentence: "" },
};
// Nothing of ours is under way and nothing is open: the page may check by itself.
const RESTING = new Set(["idle", "done", "notSent", "refused", "busy", "failed"]);
const PHASE_OF = { done: "done", rejected: "notSent", unreached: "notSent", busy: "busy", refused: "refused", failed: "failed" };

// QEMU's words, for people. A word that is not here is shown as it came.
const STATES = {
  running: ["●", "Running", "good"],
  stopped: ["○", "Stopped", ""],
  paused: ["‖", "Paused", "warn"],
  suspended: ["‖", "Suspended", "warn"],
  prelaunch: ["‖", "Not begun (prelaunch)", "warn"],
  shutdown: ["○", "Shut down, QEMU still there", "warn"],
  "io-error": ["▲", "Paused by a disk error", "bad"],
  "guest-panicked": ["▲", "Guest panicked", "bad"],
  "internal-error": ["▲", "QEMU internal error", "bad"],
  wedged: ["▲", "Wedged: QEMU does not answer", "bad"],
  unknown: ["?", "Not known", "warn"],
};

const $ = (id) => document.getElementById(id);
const BUTTONS = Object.fromEntries([...document.querySelectorAll("[data-verb]")].map((b) => [b.dataset.verb, b]));
const HINTS = Object.fromEntries(Object.entries(BUTTONS).map(([verb, b]) => [verb, b.querySelector("small").textContent]));
const labelOf = (verb) => BUTTONS[verb]?.dataset.label ?? verb;
const mutates = (verb) => "asks" in BUTTONS[verb].dataset;

let key = null; // a CryptoKey that can sign and can't be read out
let decide = () => {}; // takes the person's answer to the open dialog
let vmName = "";
const views = new Map(); // what is known and shown, per VM
const health = { heard: null, fails: 0, at: 0, downSince: 0, next: 0, timer: 0 };

// -- what is known of one VM ------------------------------------------------------------------------------------------

function newView() {
  return {
    phase: "idle", label: "", what: "", sentence: "", hint: "", lines: [], since: 0, // what the status line says
    seen: null, // {state, last, at, holder}: what the person is looking at
    note: "", trouble: "", warnings: [], byHand: [], output: { title: "", text: "" },
    job: null, // sent, and its outcome not known yet
    sent: new Set(), // ids that are ours, so that another's can be told apart
    acting: null, reading: null, // AbortControllers of what is in flight
    triedAt: 0, lockedSince: 0,
  };
}

function here() {
  if (!views.has(vmName)) views.set(vmName, newView());
  return views.get(vmName);
}

function enter(view, phase, told = {}) {
  Object.assign(view, { phase, sentence: PHASES[phase].sentence, hint: "", lines: [], since: Date.now() }, told);
  render();
}

// "Locked" and "disconnected" lie over whatever went before, which is shown again afterwards.
function phaseOf(view) {
  if (!key) return "locked";
  return health.fails > 1 && RESTING.has(view.phase) ? "disconnected" : view.phase;
}

// -- signing: Standard Webhooks v1 ------------------------------------------------------------------------------------

async function importKey(text) {
  if (!text.startsWith("whsec_")) throw new Error("A signing key starts with whsec_. Copy the whole line.");
  let bytes;
  try {
    bytes = Uint8Array.from(atob(text.slice(6)), (c) => c.charCodeAt(0));
  } catch {
    throw new Error("This is not a whole key: the part after whsec_ is not base64. Copy it again.");
  }
  if (bytes.length < 24 || bytes.length > 64) {
    throw new Error(`This key has ${bytes.length} bytes; a signing key has 24 to 64. Copy the whole line.`);
  }
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
}

async function signed(job) {
  const timestamp = Math.floor(Date.now() / 1000);
  const bytes = new TextEncoder().encode(`${job.id}.${timestamp}.${job.body}`);
  const mac = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes));
  const signature = `v1,${btoa(String.fromCharCode(...mac))}`;
  return { "webhook-id": job.id, "webhook-timestamp": `${timestamp}`, "webhook-signature": signature };
}

// -- one request, one answer ------------------------------------------------------------------------------------------

// A job is one id and one body for good: however often it is sent, the host acts on it once.
function newJob(view, verb) {
  const body = { verb };
  if (vmName) body.vm = vmName;
  if (mutates(verb) && view.seen) {
    if (view.seen.state !== "unknown") body.if_state = view.seen.state;
    if (view.seen.last) body.if_last = view.seen.last;
  }
  const id = `msg_${crypto.randomUUID().replaceAll("-", "")}`;
  return { id, verb, body: JSON.stringify(body), until: Date.now() + RESEND_MS, lost: false };
}

// Send a job once. Whatever goes wrong on the way is `lost`: nobody knows whether it arrived.
async function ask(view, job, signal) {
  const silence = new AbortController();
  let timer = 0;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  alive();
  try {
    const response = await fetch("pve", {
      method: "POST",
      headers: { ...(await signed(job)), "content-type": "application/json", accept: "application/x-ndjson" },
      body: job.body,
      cache: "no-store",
      redirect: "error", // a login page in between is not an answer
      signal: AbortSignal.any([signal, silence.signal]),
    });
    const streamed = response.headers.get("content-type")?.includes("ndjson");
    return asAnswer(streamed ? await lastWord(view, job, response.body, alive) : await response.json());
  } catch {
    return asAnswer(null);
  } finally {
    clearTimeout(timer);
  }
}

function asAnswer(got) {
  if (got?.error) return { ...got.error, outcome: "error" };
  return got?.outcome ? got : { outcome: "lost", reached: null, message: "no answer came back" };
}

// Only the `result` line decides. A stream without one is no answer, however much it said before.
async function lastWord(view, job, body, alive) {
  let first = true;
  for await (const line of linesOf(body, alive)) {
    const event = JSON.parse(line);
    if (event.type === "result") return event;
    if (event.type !== "output") continue;
    heard(view, job, event.text, first);
    first = false;
  }
  return null;
}

async function* linesOf(body, alive) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return; // a last line without its newline is a torn one
    alive();
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    yield* lines.filter(Boolean);
  }
}

// -- verbs ------------------------------------------------------------------------------------------------------------

// The one function that sends. A verb that changes power leaves only with a job that `confirmed` gave, or `again`.
async function run(verb, { again = null, quiet = false } = {}) {
  const view = here();
  if (!key || $("confirm").open || (quiet ? view.reading : !again && obstacle(view, verb) && !mayAnyway(view))) return;
  const job = again ?? (mutates(verb) ? await confirmed(view, verb) : newJob(view, verb));
  if (!job) return;
  view.reading?.abort(); // at most a check in the background: a person goes first
  view.reading = null;
  const slot = mutates(verb) ? "acting" : "reading";
  view[slot]?.abort();
  const flight = (view[slot] = new AbortController());
  await (mutates(verb) ? act(view, job, flight) : look(view, job, flight, quiet));
  if (view[slot] === flight) view[slot] = null;
  render();
  if (mutates(verb) && !view.job) run("status", { quiet: true });
}

// A second ask with the same id attaches to the first, so a lost answer is simply asked for again.
async function act(view, job, flight) {
  Object.assign(view, { job, label: labelOf(job.verb), what: labelOf(job.verb).toLowerCase(), note: "" });
  view.sent.add(job.id);
  enter(view, job.lost ? "unknown" : "running");
  for (let pause = 1_000; ; pause = Math.min(2 * pause, 8_000)) {
    const answer = await ask(view, job, flight.signal);
    if (view.acting !== flight) return; // superseded by "Try anyway", or forgotten
    if (settles(job, answer)) return settle(view, job, answer);
    const goesOn = !flight.signal.aborted && (answer.outcome === "running" || Date.now() + pause < job.until);
    stillOpen(view, job, answer, goesOn);
    if (!goesOn) return;
    await sleep(pause, flight.signal);
  }
}

async function look(view, job, flight, quiet) {
  const loud = !quiet && !view.job; // while an outcome is open, a check must not paint over it
  view.triedAt = Date.now();
  job.quiet = quiet;
  if (loud) enter(view, "checking", { label: labelOf(job.verb), what: labelOf(job.verb).toLowerCase() });
  const answer = await ask(view, job, flight.signal);
  if (view.reading !== flight) return;
  if (answer.outcome === "lost") poll();
  if (loud) return settle(view, job, answer);
  remember(view, job, answer);
}

// `reached: false` speaks of one sending only. Once one was lost, only `reached: true` settles the id.
function settles(job, answer) {
  if (answer.reached === true) return answer.outcome !== "running";
  return answer.reached === false && !job.lost;
}

function stillOpen(view, job, answer, goesOn) {
  if (answer.outcome === "running") return enter(view, "running");
  job.lost = true;
  const told = { hint: `Last try, ${clock(Date.now())}: ${said(answer)}`, lines: byHand(answer) };
  if (!goesOn) {
    told.sentence = `The ${view.what} may have happened. Ask again sends the same request: it happens at most once.`;
  }
  enter(view, "unknown", told);
  poll();
}

function settle(view, job, answer) {
  if (mutates(job.verb)) view.job = null;
  remember(view, job, answer);
  if (answer.code === "unauthorized" && !view.seen) return refuseKey();
  $("key").open &&= answer.outcome === "error"; // the key was good: fold its region away
  enter(view, phaseAfter(job, answer), words(view, job, answer));
}

function phaseAfter(job, answer) {
  if (answer.outcome === "error") return answer.reached ? "failed" : "notSent";
  if (answer.outcome === "done" && job.verb === "status") return "idle";
  return PHASE_OF[answer.outcome] ?? "failed";
}

function words(view, job, answer) {
  const { outcome, verdict, holder } = answer;
  const advice = verdict?.advice ? `Advice: ${labelOf(verdict.advice)}.` : "";
  const told = { sentence: said(answer), hint: answer.hint ?? advice, lines: verdict?.evidence ?? [] };
  if (outcome === "done" && job.verb === "status") told.sentence = `It is ${stateWord(answer.state).toLowerCase()}.`;
  else if (outcome === "done") told.sentence = `at ${clock(Date.now())}. ${verdict?.sentence ?? ""}`;
  if (outcome === "busy" && holder) told.sentence = holding(holder);
  if (outcome === "failed" && answer.stage) told.hint = `It got as far as: ${answer.stage}. ${advice}`;
  if (outcome === "failed") told.lines = [...told.lines, ...byHand(answer)];
  return told;
}

const byHand = (answer) => (answer.by_hand ?? []).map((line) => `By hand: ${line}`);

function said(answer) {
  const reason = answer.message || answer.verdict?.sentence || answer.stderr?.trim() || "no reason was given";
  return reason.replace(/; nothing was sent$/, ""); // the word before it says so, where it is true
}

function holding({ by, verb, since, stage }) {
  const doing = BUTTONS[verb]?.dataset.doing ?? `at it (${verb})`;
  return `${by} is ${doing} it since ${clock(since)}${stage ? ` (stage: ${stage})` : ""}.`;
}

// Keep what the answer tells of the VM, and notice when somebody else acted since the person last looked.
function remember(view, job, answer) {
  if (answer.by_hand?.length) view.byHand = answer.by_hand;
  if (answer.warnings) view.warnings = answer.warnings;
  const output = `${answer.stdout ?? ""}${answer.stderr ?? ""}`;
  if (output && output !== view.output.text) heard(view, job, output, true);
  if (job.verb !== "status" && !(mutates(job.verb) && answer.outcome === "done")) return;
  if (!answer.reached || !answer.state) {
    view.trouble = `Could not check at ${clock(Date.now())}: ${said(answer)}`;
    return;
  }
  const before = view.seen;
  view.seen = { state: answer.state, last: answer.last, at: Date.now(), holder: answer.holder };
  view.trouble = "";
  const foreign = before?.last && answer.last && answer.last !== "none" && !view.sent.has(answer.last);
  if (foreign && answer.last !== before.last) {
    view.note = `Somebody else changed its power between ${clock(before.at)} and ${clock(view.seen.at)}.`;
  }
}

// -- what stands in the way of a button -------------------------------------------------------------------------------

function obstacle(view, verb) {
  const phase = phaseOf(view);
  if (phase === "locked") return "Enter the signing key first.";
  if (phase === "checking") return "Wait for the answer.";
  if (phase === "running") return `${view.label} is under way.`;
  if (view.reading && view.job && !mutates(verb)) return "Wait for the answer.";
  if (verb === "status") return "";
  if (phase === "disconnected") return "The handler is not answering.";
  if (view.job && mutates(verb)) return `Not known yet whether the ${view.what} happened.`;
  const trouble = proxmoxTrouble(view);
  return trouble ? `Proxmox is out of reach: ${trouble}.` : "";
}

function pointless(view, verb) {
  const state = view.seen?.state;
  return state && BUTTONS[verb].dataset.pointless === state ? `It is ${state}.` : "";
}

// A lock is a hint, never a wall: after a minute the person may know better than the page.
function mayAnyway(view) {
  return Boolean(key) && view.lockedSince > 0 && Date.now() - view.lockedSince >= LOCK_MS;
}

function watchLock(view) {
  if (!key || !obstacle(view, "reset")) view.lockedSince = 0;
  else view.lockedSince ||= Date.now();
}

// -- the confirm dialog: the only way to a job that changes power -----------------------------------------------------

async function confirmed(view, verb) {
  const job = newJob(view, verb); // made now: it carries what the person is looking at while deciding
  const { label, consequence, danger } = BUTTONS[verb].dataset;
  const why = obstacle(view, verb);
  const anyway = why || pointless(view, verb) ? " anyway" : "";
  text($("confirm-title"), `${label} ${fullName()}${anyway}?`);
  text($("confirm-text"), consequence);
  text($("confirm-seen"), [why, lastSeen(view), view.note].filter(Boolean).join(" "));
  text($("keep"), { running: "Keep it running", stopped: "Keep it stopped" }[view.seen?.state] ?? "Leave it as it is");
  text($("yes"), `${label} ${vmName}${anyway}`);
  $("yes").classList.toggle("danger", danger !== undefined);
  const yes = await answered($("confirm"));
  job.until = Date.now() + RESEND_MS;
  return yes ? job : null;
}

// Esc, Back and Enter (the focus is on the safe button) all close it without a yes.
function answered(dialog) {
  decide(false); // nothing older may still be waiting for a yes
  dialog.showModal();
  return new Promise((resolve) => {
    decide = resolve;
  });
}

function close(yes) {
  $("confirm").close();
  decide(yes);
}

function lastSeen({ seen }) {
  if (!seen) return "Its state is not known.";
  return `It was ${stateWord(seen.state).toLowerCase()} ${age(seen.at)} ago, at ${clock(seen.at)}.`;
}

// -- the key ----------------------------------------------------------------------------------------------------------

async function unlock(secret) {
  text($("key-trouble"), "");
  try {
    key = await importKey(secret.trim());
  } catch (error) {
    return text($("key-trouble"), error.message);
  }
  $("secret").value = "";
  run("status");
}

function refuseKey() {
  forget();
  text($("key-trouble"), "The handler does not know this key. Look whether it is the whole key, and for this handler.");
  $("secret").focus();
}

function forget() {
  key = null;
  for (const view of views.values()) {
    view.acting?.abort();
    view.reading?.abort();
    view.acting = view.reading = null;
  }
  views.clear();
  $("key").open = true;
  text($("key-trouble"), "");
  render();
}

// The demo prints a link with its throw-away key. Only on this very machine, and out of the address bar at once.
function keyInAddress() {
  const secret = new URLSearchParams(location.hash.slice(1)).get("key");
  if (secret === null) return "";
  history.replaceState(null, "", location.pathname + location.search);
  if (/^(localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname)) return secret.replaceAll(" ", "+");
  text($("key-trouble"), "A key in the address is only for the demo on this machine. Enter it here instead.");
  return "";
}

function withoutCrypto() {
  const port = location.port || "80";
  $("unlock").hidden = true;
  $("no-crypto").hidden = false;
  text($("no-crypto"), "This browser signs only over https or on its own machine, and this page came over plain http. "
    + `On your machine run: ssh -L ${port}:localhost:${port} ${location.hostname} and open http://localhost:${port}/`);
}

// -- the lights -------------------------------------------------------------------------------------------------------

async function poll() {
  clearTimeout(health.timer);
  const wasDown = health.fails > 1;
  try {
    const response = await fetch("health", { cache: "no-store", signal: AbortSignal.timeout(8_000) });
    const heard = await response.json();
    if (!Array.isArray(heard.vms)) throw new TypeError("not a health answer");
    Object.assign(health, { heard, fails: 0, downSince: 0, at: Date.now() });
    takeNames(heard.vms.map((vm) => vm.name));
  } catch {
    health.fails += 1;
    health.downSince ||= Date.now();
    if (health.fails === 2) $("by-hand").open = true;
  }
  const wait = health.fails ? Math.min(1_000 * 2 ** health.fails, 30_000) : HEALTH_MS;
  health.next = Date.now() + wait;
  health.timer = setTimeout(poll, wait);
  if (wasDown && !health.fails && key) run("status", { quiet: true });
  render();
}

function takeNames(names) {
  const select = $("vm");
  if ([...select.options].map((option) => option.value).join() === names.join()) return;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  $("choice").hidden = names.length < 2;
  const chosen = names.includes(vmName) ? vmName : names[0] ?? "";
  if (!vmName && views.has("")) views.set(chosen, views.get("")); // what was sent before the name was known
  vmName = select.value = chosen;
}

const vmHealth = () => health.heard?.vms.find((vm) => vm.name === vmName);

// "" when the host answers, or when nobody knows; otherwise the handler's code for what is wrong, as words.
function proxmoxTrouble(view) {
  const code = health.fails ? "" : vmHealth()?.proxmox ?? "";
  const newer = view.seen?.at > health.at; // a status that came back since is better news
  return newer || code === "answering" || code === "not-checked" ? "" : code.replaceAll("-", " ");
}

function fullName() {
  const vm = vmHealth();
  return vm ? `${vm.name} (VM ${vm.vmid})` : vmName || "the VM";
}

const LIGHTS = { good: "●", bad: "✕", warn: "?" };

function light(item, tone, word, since) {
  item.dataset.tone = tone;
  text(item.querySelector("i"), LIGHTS[tone]);
  text(item.querySelector("b"), tone === "bad" && since ? `${word} since ${clock(since).slice(0, 5)}` : word);
}

function renderLights(view) {
  const { heard, fails, downSince } = health;
  const handler = fails ? ["bad", "not answering"] : heard ? ["good", "answering"] : ["warn", "not checked"];
  light($("light-handler"), ...handler, downSince);
  const vm = fails ? null : vmHealth();
  const trouble = proxmoxTrouble(view);
  const known = vm && vm.proxmox !== "not-checked";
  const proxmox = trouble ? ["bad", `out of reach (${trouble})`] : known ? ["good", "answering"] : ["warn", "not known"];
  light($("light-proxmox"), ...proxmox, vm?.since);
}

// -- showing it -------------------------------------------------------------------------------------------------------

function text(element, value) {
  if (element.textContent !== value) element.textContent = value; // an unchanged live region stays silent
}

function list(element, values) {
  if ([...element.children].map((item) => item.textContent).join("\n") === values.join("\n")) return;
  element.replaceChildren(...values.map((value) => {
    const item = document.createElement("li");
    const code = item.appendChild(document.createElement("code"));
    code.textContent = value;
    return item;
  }));
}

function render() {
  const view = here();
  watchLock(view);
  text($("name"), vmName ? fullName() : "Breakglass");
  text($("key-word"), key ? "unlocked" : "locked");
  $("vm").disabled = Boolean(view.acting);
  renderLights(view);
  renderState(view);
  renderTold(view, phaseOf(view));
  renderButtons(view);
  renderOutput(view);
  $("by-hand-none").hidden = view.byHand.length > 0;
  $("by-hand-some").hidden = view.byHand.length === 0;
  list($("by-hand-lines"), view.byHand);
}

const stateWord = (state) => STATES[state]?.[1] ?? state;

function renderState({ seen, note, trouble, warnings }) {
  const [shape, word, tone] = seen ? STATES[seen.state] ?? ["◆", seen.state, "warn"] : ["?", "Not checked yet", ""];
  text($("state-shape"), shape);
  text($("state-word"), word);
  const old = seen && Date.now() - seen.at > STALE_MS ? "; may be out of date" : "";
  $("state").dataset.tone = old ? "" : tone;
  text($("state-age"), seen ? `checked ${clock(seen.at)}, ${age(seen.at)} ago${old}` : "");
  text($("state-note"), [trouble, note, seen?.holder && holding(seen.holder), ...warnings].filter(Boolean).join(" "));
  document.title = seen ? `${word} - ${vmName}` : "Breakglass";
}

function renderTold(view, phase) {
  const { shape, tone, word } = PHASES[phase];
  const covered = phase !== view.phase;
  const fill = (words) => words.replaceAll("{label}", view.label).replaceAll("{what}", view.what);
  Object.assign($("told").dataset, { tone, phase });
  text($("told-shape"), shape);
  text($("told-word"), fill(word));
  const since = phase === "disconnected" ? `since ${clock(health.downSince).slice(0, 5)}.` : "";
  text($("told-sentence"), since || fill(covered ? PHASES[phase].sentence : view.sentence));
  text($("told-timer"), timer(view, phase));
  text($("told-hint"), covered ? "" : view.hint);
  list($("told-lines"), covered ? [] : view.lines);
  $("stop-waiting").hidden = !(phase === "running" || phase === "checking" || (phase === "unknown" && view.acting));
  $("ask-again").hidden = phase !== "unknown" || Boolean(view.acting);
  $("try-now").hidden = phase !== "disconnected";
}

function timer(view, phase) {
  if (phase === "disconnected") return `Trying again in ${Math.max(0, Math.ceil((health.next - Date.now()) / 1000))} s.`;
  return phase === "running" || phase === "checking" ? age(view.since) : "";
}

function renderButtons(view) {
  for (const [verb, button] of Object.entries(BUTTONS)) {
    const blocked = obstacle(view, verb);
    const why = blocked || pointless(view, verb);
    const open = why && key && (!blocked || mayAnyway(view));
    button.setAttribute("aria-disabled", String(Boolean(why)));
    text(button.querySelector("small"), why ? `${why}${open ? " Try anyway…" : ""}` : HINTS[verb]);
  }
}

function renderOutput({ output }) {
  $("output-box").hidden = !output.text;
  text($("output-title"), output.title);
  if (output.text.length !== $("output").textContent.length) text($("output"), output.text);
}

// Output as it comes. Appended, because a megabyte set again for every line would freeze a phone.
function heard(view, job, more, first) {
  if (job.quiet) return;
  const { output } = view;
  job.until = Date.now() + RESEND_MS; // the host has it: asking again can only attach
  if (view.job === job && view.phase === "unknown") enter(view, "running");
  if (first) Object.assign(output, { title: `Output of ${labelOf(job.verb)}, ${clock(Date.now())}`, text: "" });
  output.text += more;
  if (view !== here()) return;
  const pre = $("output");
  const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 40;
  if (first) renderOutput(view);
  else pre.append(more);
  if (atEnd) pre.scrollTop = pre.scrollHeight;
  if (job.verb !== "status") $("output-box").open = true;
}

const clock = (when) => new Date(when).toLocaleTimeString("en-GB");

function age(at) {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal.addEventListener("abort", resolve, { once: true });
  });
}

// -- hands ------------------------------------------------------------------------------------------------------------

const DO = {
  forget,
  keep: () => close(false),
  yes: () => close(true),
  tryNow: poll,
  askAgain() {
    const { job, acting } = here();
    if (job && !acting) run(job.verb, { again: job });
  },
  stopWaiting() {
    const view = here();
    if (view.acting) return view.acting.abort(); // then its outcome is unknown, and act() says so
    view.reading?.abort();
    view.reading = null;
    enter(view, "idle", { sentence: "You stopped waiting. Checking changes nothing." });
  },
  async copy(button) {
    await navigator.clipboard.writeText(here().output.text);
    text(button, "Copied");
    setTimeout(() => text(button, "Copy"), 2_000);
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.verb) run(button.dataset.verb);
  else if (button?.dataset.do) DO[button.dataset.do](button);
});

$("confirm").addEventListener("close", () => {
  if (!$("confirm").open) decide(false); // Esc and Back; after a button it was decided already
});

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  unlock($("secret").value);
});

$("vm").addEventListener("change", () => {
  vmName = $("vm").value;
  render();
});

window.addEventListener("hashchange", () => {
  const secret = keyInAddress();
  if (secret) unlock(secret);
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});

// Every second: the ages, the locks, and a quiet look when nothing else is going on.
setInterval(() => {
  render();
  const view = here();
  if (document.hidden || !RESTING.has(phaseOf(view))) return;
  if (Date.now() - view.triedAt >= REFRESH_MS) run("status", { quiet: true });
}, 1_000);

const given = keyInAddress();
await poll();
if (!globalThis.crypto?.subtle) withoutCrypto();
else if (given) unlock(given);
