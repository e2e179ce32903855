// What the page knows, and its words: text, never markup.

export const PHASES = {
	locked: ["□", "", "Locked.", "Enter the signing key."],
	idle: ["●", "good", "Ready."],
	checking: ["◌", "", "{label}:", "asking…"],
	running: ["◐", "warn", "{label} sent."],
	done: ["✓", "good", "{label} done"],
	notSent: ["○", "warn", "Nothing was sent:"],
	refused: ["◇", "warn", "Nothing was changed:"],
	busy: ["◑", "warn", "Busy:"],
	failed: ["▲", "bad", "{label} failed:"],
	unknown: ["?", "warn", "No answer.", "The {what} may have happened; asking the host…"],
	disconnected: ["✕", "bad", "Handler not answering"],
};

const STATES = {
	__proto__: null, // an answer may say `constructor`
	running: ["●", "good", "Running"],
	stopped: ["○", "", "Stopped"],
	elsewhere: ["→", "warn", "On another node"],
	paused: ["‖", "warn", "Paused"],
	prelaunch: ["‖", "warn", "Not begun (prelaunch)"],
	"io-error": ["▲", "bad", "Paused by a disk error"],
	"guest-panicked": ["▲", "bad", "Guest panicked"],
	"internal-error": ["▲", "bad", "QEMU internal error"],
	wedged: ["▲", "bad", "Wedged: QEMU does not answer"],
	unknown: ["?", "warn", "Not known"],
};
export const stateOf = (state) => STATES[state] ?? ["◆", "warn", state];

const TROUBLE = {
	__proto__: null,
	refused: "the connection was refused",
	timeout: "no answer within 10 s",
	"host-key-differs": "its host key changed, so nothing was sent",
	"config-error": "its configuration has a fault, so it is off",
	"claude-missing": "it is not installed",
	"claude-auth": "it is not signed in",
	"claude-crashed": "it crashed",
	"chat-not-isolated": "it is not isolated from the handler’s secrets",
	busy: "too many turns at once",
	failed: "it could not be loaded",
	starting: "it is not ready yet",
};
export const sentence = (words = "") => words && `${words[0].toUpperCase()}${words.slice(1)}.`;
export const trouble = (code) => TROUBLE[code] ?? code.replace("claude-", "").replaceAll("-", " ");

export const clock = (when = Date.now()) => new Date(when).toLocaleTimeString("en-GB");
// by this device's clock
export const theirs = (when, more = 0) => clock(Date.parse(when) + 1e3 * more - me.clockOff);
export const minute = (when) => clock(when).slice(0, 5);

export function age(at) {
	const s = Math.round(Math.abs(Date.now() - at) / 1000);
	const [unit, word] = s < 120 ? [1, "s"] : s < 7200 ? [60, "min"] : s < 172_800 ? [3600, "h"] : [86_400, "days"];
	return `${Math.round(s / unit)} ${word}`;
}

export function sleep(ms, signal) {
	return new Promise((resolve) => {
		setTimeout(resolve, ms);
		signal?.addEventListener("abort", resolve);
	});
}

export const $ = (id) => document.getElementById(id);

// What could reorder a line, or hide in it.
const UNSEEN = /[\p{Cf}\p{Zl}\p{Zp}\u3164]|[^\P{Cc}\t\n]/gu;
const spell = (c) => (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : `⟨U+${c.codePointAt(0).toString(16)}⟩`);
const visible = (value) => String(value || "").replaceAll("\r\n", "\n").replace(UNSEEN, spell);

export function put(element, value) {
	const shown = visible(value);
	if (element.textContent !== shown) element.textContent = shown; // else a live region would speak
}
export const text = (words) => Object.entries(words).forEach(([id, value]) => put($(id), value));
export function show(wanted) {
	for (const [id, shown] of Object.entries(wanted)) {
		if (!shown) leave($(id));
		$(id).hidden = !shown;
	}
}

export function leave(element) {
	if (element.contains(document.activeElement)) BUTTONS.status.focus({ preventScroll: true });
}

export function make(kind, ...children) {
	const [tag, className = ""] = kind.split(".");
	const element = Object.assign(document.createElement(tag), { className });
	element.append(...children.map((child) => (child instanceof Node ? child : visible(child))));
	return element;
}

export function list(element, values = []) {
	if (element.textContent === values.map(visible).join("")) return;
	element.replaceChildren(...values.map((value) => make("li", make("code", value))));
}

// In pieces: a browser lays a whole block out again for each word added.
export function grow(box, more) {
	for (const part of visible(more).match(/[^]{0,4000}\n|[^]{1,4000}/gu) ?? []) {
		let piece = box.lastElementChild;
		if (!piece || piece.full) piece = box.appendChild(make("span.piece"));
		piece.append(part);
		piece.size = (piece.size ?? 0) + part.length;
		piece.full = piece.size > 40_000 || (piece.size > 4_000 && part.endsWith("\n"));
	}
}

// Stays at the end of a box; measured once a frame.
export function following(box) {
	if (box.follows) return () => {};
	const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
	return () => {
		box.follows = atEnd;
		if (atEnd) requestAnimationFrame(() => box.scrollTo(0, box.scrollHeight, box.follows = false));
	};
}

export function pre(words) {
	const box = Object.assign(make("pre"), { tabIndex: 0 });
	grow(box, words);
	return box;
}

export const MINUTE = 60_000;

export const me = { key: null, vm: "", clockOff: 0 };
export const health = { vms: [], fails: 0, downSince: 0, next: 0 };
export const views = new Map();

export const resting = ({ phase }) => !["checking", "running", "unknown"].includes(phase);

const newView = (vm) => ({
	vm,
	phase: "idle", verb: "status", warnings: [], output: {}, triedAt: 0, lockedSince: Infinity,
	byHand: store("local", `by-hand ${vm}`) ?? [],
	proven: store("local", `proven ${vm}`),
	sent: new Map(), // each id, and whether its end is open
	// and, once there: seen {state, last, at, holder}, verdict, picture, jobs, note, trouble, holder, offer, chat
});

export function here() {
	if (!views.has(me.vm)) views.set(me.vm, newView(me.vm));
	return views.get(me.vm);
}

export const tell = (what) => document.dispatchEvent(new Event(what));
export const changed = () => tell("changed");

export function enter(view, phase, more) {
	Object.assign(view, { phase, sentence: "", hint: "", lines: [], url: "", since: Date.now() }, more);
	changed();
}

export function phaseOf(view) {
	if (!me.key) return "locked";
	return health.fails > 1 && resting(view) ? "disconnected" : view.phase;
}

export const HOME = new URL(".", location);

// Never a secret. Another page of this origin has other names.
export const OWN = `breakglass ${HOME.pathname} `;

export function store(where, name, value) {
	try {
		const storage = window[`${where}Storage`];
		if (value === undefined) return JSON.parse(storage.getItem(OWN + name));
		storage.setItem(OWN + name, JSON.stringify(value));
	} catch {}
	return null;
}

export function takeNames(vms) {
	const names = vms.map((vm) => vm.name);
	const select = $("vm");
	health.vms = vms;
	if (me.key && !names.includes(me.vm)) names.push(me.vm); // taken away, and still looked at
	if ([...select.options].map((option) => option.value).join() === names.join()) return;
	select.replaceChildren(...names.map((name) => new Option(name)));
	show({ choice: names.length > 1 });
	const chosen = [me.vm, store("session", "vm")].find((name) => names.includes(name)) ?? names[0] ?? "";
	if (!me.vm && views.has("")) views.set(chosen, Object.assign(views.get(""), { vm: chosen }));
	me.vm = select.value = chosen;
}

// When this road was last tried for real: `null` is "never" only from a host agent that can know it.
export function noteProven(vm, proven) {
	if (!proven && (proven === undefined || vmHealth(vm)?.proxmox !== "answering")) return;
	const kept = { at: proven?.at, how: proven?.how, seen: Date.now() };
	store("local", `proven ${vm}`, kept);
	if (views.has(vm)) views.get(vm).proven = kept;
}

export const BUTTONS = { __proto__: null };
for (const b of document.querySelectorAll("[data-verb]")) BUTTONS[b.dataset.verb] = b;
export const labelOf = (verb) => BUTTONS[verb]?.firstChild.data.trim().replace("…", "") ?? verb;
export const mutates = (verb) => BUTTONS[verb]?.dataset.consequence !== undefined;

export function obstacle(view, verb) {
	const phase = phaseOf(view);
	if (phase === "locked") return "Enter the signing key first.";
	if (phase === "checking" || (view.reading && view.job && !mutates(verb))) return "Wait for the answer.";
	if (phase === "running") return `${labelOf(view.verb)} is under way.`;
	if (verb === "status") return "";
	if (phase === "disconnected") return "The handler is not answering.";
	if (view.job && mutates(verb)) return `It is not known whether the ${labelOf(view.verb).toLowerCase()} happened.`;
	if (view.seen?.holder && mutates(verb)) return holding(view.seen.holder);
	const what = proxmoxTrouble(view);
	return what && `Proxmox is out of reach: ${what}.`;
}

export const chatDown = () => health.answer?.chat?.replace(/^(on|off)$/, "") ?? "";

export const pointless = ({ seen }, verb) => (seen && BUTTONS[verb].dataset.pointless === seen.state ? `It is ${seen.state}.` : "");

// A lock is a hint: after a minute a person may know better.
export const mayAnyway = (view) => Date.now() - view.lockedSince >= MINUTE;

export const vmHealth = (name = me.vm) => health.vms.find((vm) => vm.name === name);

export function fullName(name = me.vm) {
	const vmid = vmHealth(name)?.vmid;
	return vmid ? `${name} (VM ${vmid})` : name || "the VM";
}

export function proxmoxTrouble(view) {
	const code = !health.fails && health.answer && vmHealth()?.proxmox;
	const newer = view.seen?.at > health.at && view.seen.at <= Date.now();
	return !code || newer || code === "answering" || code === "not-checked" ? "" : trouble(code);
}

export function holding({ by, verb, since, stage, deadline }) {
	const doing = BUTTONS[verb]?.dataset.doing ?? `at it (${verb})`;
	const until = deadline ? `; the job ends by ${theirs(since, deadline)}` : "";
	return `${by} has been ${doing} it since ${theirs(since)}${until}${stage ? ` (stage: ${stage})` : ""}.`;
}

takeNames(store("local", "vms") ?? []);
