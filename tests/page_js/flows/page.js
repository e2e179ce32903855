// A page without a screen: the modules that send, repeat and look, a scripted host behind `fetch`, and a clock that a test moves.

import { setMaxListeners } from "node:events";
import { answerOf, verdictOf } from "../samples.js";

setMaxListeners(0); // a verb that is repeated listens at each pause
export const LOST = Symbol("no answer comes");

class Part {
	open = false;
	textContent = "";
	dataset = {};
	classList = { toggle() {} };
	listeners = {};

	append() {}
	replaceChildren() {}
	setAttribute() {}

	addEventListener(type, act) {
		this.listeners[type] = act;
	}

	showModal() {
		this.open = true;
	}

	close() {
		this.open = false;
		this.listeners.close?.();
	}
}

const parts = {};
const kept = new Map();
const store = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value), removeItem: (name) => kept.delete(name) };
// The clock that a person can set, and the time that really passes, which runs the timers.
let now = Date.parse("2026-11-27T03:12:40Z");
let passed = 0;
let number = 0;
const timers = new Map();
export const setClock = (ms) => { now += ms; };

export async function tick(ms) {
	const end = passed + ms;
	for (let count = 0; ; count += 1) {
		if (count > 1_000) throw new Error("the page asks again and again without a pause");
		const [next] = [...timers].filter(([, { at }]) => at <= end).sort(([, one], [, other]) => one.at - other.at);
		const to = next ? Math.max(next[1].at, passed) : end;
		now += to - passed;
		passed = to;
		if (!next) return;
		timers.delete(next[0]);
		next[1].act();
		await turn();
	}
}

const Real = Date;
globalThis.Date = class extends Real {
	constructor(...words) {
		super(...words.length ? words : [now]);
	}

	static now = () => now;
};
globalThis.setTimeout = (act, ms = 0) => {
	timers.set(++number, { act, at: passed + ms });
	return number;
};
globalThis.clearTimeout = (id) => timers.delete(id);

export const heard = {}; // what the page listens to
for (const [name, value] of Object.entries({
	Node: Part, location: new URL("https://vm.example/breakglass/index.html?from=mail#vm=devvm"), localStorage: store, sessionStorage: store, fetch: answerTo,
	addEventListener: (type, act) => { heard[type] = act; },
	document: { hidden: false, getElementById: (id) => (parts[id] ??= new Part()), createElement: () => new Part(), createElementNS: () => new Part() },
	navigator: {}, crypto: { randomUUID: () => String(++number), subtle: { sign: async () => new ArrayBuffer(32) } },
})) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
export const locks = { held: 0, isRefused: false, last: null };
navigator.wakeLock = { async request() {
	if (locks.isRefused) throw new Error("low battery");
	locks.held += 1;
	locks.last = { addEventListener(_, act) { this.gone = act; }, async release() { locks.held -= 1; this.gone(); } };
	return locks.last;
} };

// What the host does: `host.pve` answers what a test wants answered in another way.
export const host = { vms: [], hosts: {}, last: "job_0", pve: () => undefined, isAway: false };
export let posts = [];

const DEFAULTS = {
	status: () => answerOf({ last: host.last, verdict: verdictOf("qemu-running") }),
	forensics: () => answerOf({ last: host.last, verdict: verdictOf("guest-silent") }),
	history: () => ({ outcome: "done", reached: true, jobs: [] }),
	screen: () => ({ outcome: "done", reached: true, state: "running", guest: "silent", screen_png: "x", started: new Date().toISOString() }),
};

async function answerTo(path, { body, headers, signal } = {}) {
	if (path === "health") {
		if (host.isAway) throw new TypeError("Failed to fetch");
		return Response.json({ vms: host.vms, chat: "none", config: "ok", hosts: host.hosts });
	}
	const post = { ...JSON.parse(body), id: headers["webhook-id"], isEnded: false };
	posts.push(post);
	const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
	try {
		const answer = await Promise.race([aborted, host.pve(post)]) ?? (DEFAULTS[post.verb] ?? (() => answerOf({ last: post.id })))();
		if (answer === LOST || host.isAway) throw new TypeError("Failed to fetch");
		const { last } = Array.isArray(answer) ? answer.at(-1) : answer;
		if (last) host.last = last;
		if (!Array.isArray(answer)) return Response.json(answer, { status: answer.error ? 401 : 200 });
		return new Response(answer.map((line) => `${JSON.stringify(line)}\n`).join(""), { headers: { "content-type": "application/x-ndjson" } });
	} finally {
		post.isEnded = true;
	}
}

const { useKey } = await import("../../../static_site/base/send.js");
const { pollHealth } = await import("../../../static_site/state/health.js");
const look = await import("../../../static_site/vm/look.js");
export const run = await import("../../../static_site/vm/run.js");
export const { dispatch, getState, viewOf } = await import("../../../static_site/state/store.js");
export { look };

// Gives every answer that can come its time, and none to the clock.
export async function turn() {
	for (let n = 0; n < 12; n += 1) await new Promise((done) => { setImmediate(done); });
}

// Lets the page's clock run, with its tick each second, as app.js has it.
export async function pass(seconds) {
	for (let n = 0; n < seconds; n += 1) {
		await tick(1_000);
		dispatch("tick");
		await turn();
	}
}

// The device sleeps: its clock continues, and nothing runs.
export async function sleepFor(seconds) {
	document.hidden = true;
	look.wakeOrSleep();
	setClock(1e3 * seconds);
	await turn();
}

export async function wake() {
	document.hidden = false;
	pollHealth();
	look.wakeOrSleep();
	await turn();
}

const vm = (name, more) => ({ name, vmid: 102, proxmox: "answering", since: null, ...more });

// Opens a page with a key, at the first VM, whose first look has ended.
export async function open(vms = [vm("devvm")]) {
	Object.assign(host, { hosts: {}, vms: vms.map((each) => vm(each.name, each)), last: "job_0", pve: () => undefined, isAway: false });
	kept.clear();
	dispatch("locked");
	await pollHealth();
	dispatch("vm-chosen", { name: vms[0].name });
	dispatch("tab-chosen", { tab: "vm" });
	await reload();
}

// The page ends and opens again on the same device, as after a reload.
export async function reload() {
	dispatch("locked");
	await turn();
	document.hidden = false;
	await pollHealth();
	useKey({});
	posts.length = 0;
	dispatch("unlocked");
	await turn();
}

// Presses a verb and answers its dialog with yes.
export async function confirm(verb, options) {
	run.runVerb(verb, options);
	await turn();
	await tick(400);
	parts.yes.listeners.click({ isTrusted: true });
	await turn();
}

export const asked = (verb, name) => posts.filter((post) => post.verb === verb && (!name || post.vm === name));
export { parts };
