// The looks that the page takes by itself: on opening and waking, at the console after a start, and at each VM of the list.

import assert from "node:assert/strict";
import { test } from "node:test";
import { LOST, asked, confirm, dispatch, getState, heard, host, locks, look, open, pass, posts, reload, run, sleepFor, turn, viewOf, wake } from "./page.js";
import { answerOf, verdictOf } from "../samples.js";

const { refreshHistory } = await import("../../../static_site/state/history.js");

const count = (...words) => new Set(asked(...words).map(({ id }) => id)).size; // a lost one is sent again
const whenVerb = (verb, answer) => (post) => (post.verb === verb ? answer : undefined);
const never = new Promise(() => {});

test("the page looks when it opens, and its evidence says that the page took it by itself", async () => {
	await open();
	assert.deepEqual(asked("forensics").map(({ reason }) => reason), ["by itself"]);
	assert.equal(viewOf().verdict.from, "forensics");
});

test("evidence of the last minute, which another took, is shown and not taken again", async () => {
	await open();
	host.pve = (post) => {
		if (post.verb !== "history") return undefined;
		const job = { id: "job_5", verb: "forensics", by: "anna", started: new Date(Date.now() - 20_000).toISOString(), seconds: 2, outcome: "done", verdict: verdictOf("guest-silent") };
		return { outcome: "done", reached: true, jobs: [job], job: { ...job, screen_png: "p" } };
	};
	await reload();
	assert.deepEqual([count("forensics"), viewOf().verdict.code, viewOf().picture.png], [0, "guest-silent", "p"]);
});

for (const [what, seconds, looks] of [["for less than a minute", 20, 0], ["for two minutes", 120, 1]]) {
	test(`a page that was hidden ${what} takes evidence ${looks} times`, async () => {
		await open();
		const [before, checks] = [count("forensics"), count("status")];
		await sleepFor(seconds);
		await wake();
		assert.deepEqual([count("forensics") - before, count("status") > checks], [looks, true]);
	});
}

test("what was under way on waking puts the look off, and does not cancel it", async () => {
	await open();
	const before = count("forensics");
	let go;
	const held = new Promise((done) => { go = done; });
	host.pve = whenVerb("status", held);
	await pass(16);
	await sleepFor(120);
	await wake();
	assert.equal(count("forensics"), before);
	host.pve = () => undefined;
	go(undefined);
	await turn();
	await pass(1);
	assert.equal(count("forensics"), before + 1);
});

test("a page that lost its handler while it slept looks once it has found it", async () => {
	await open();
	const before = count("forensics");
	host.isAway = true;
	await sleepFor(120);
	await wake();
	await pass(30);
	assert.ok(getState().health.fails > 1);
	host.isAway = false;
	await pass(30);
	assert.equal(count("forensics"), before + 1);
});

test("after a verb that failed the page looks, also if it was hidden then", async () => {
	for (const isHidden of [false, true]) {
		await open();
		const before = count("forensics");
		let go;
		const ends = new Promise((done) => { go = done; });
		host.pve = whenVerb("cycle", ends);
		await confirm("cycle");
		if (isHidden) await sleepFor(5);
		go(answerOf({ outcome: "failed", state: "stopped", verdict: verdictOf("verb-failed") }));
		await turn();
		assert.equal(count("forensics"), before + Number(!isHidden));
		if (isHidden) await wake();
		await pass(1);
		assert.deepEqual([count("forensics"), viewOf().phase], [before + 1, "failed"]);
	}
});

test("a verb takes the place of the page's own look without a word of trouble", async () => {
	await open();
	host.pve = whenVerb("forensics", never);
	await reload();
	assert.deepEqual([viewOf().reading, count("forensics")], ["forensics", 1]);
	await confirm("cycle");
	assert.equal(asked("forensics")[0].isEnded, true);
	assert.deepEqual([viewOf().phase, viewOf().trouble, viewOf().note], ["done", "", ""]);
});

test("a verb of another tab is looked at once it is seen, and is no other caller's", async () => {
	await open();
	const before = count("forensics");
	heard.storage({ key: "breakglass /breakglass/ sent devvm", newValue: '["job_7"]' });
	host.last = "job_7";
	await pass(16);
	assert.deepEqual([count("forensics") - before, viewOf().note], [1, ""]);
	host.last = "job_8";
	await pass(16);
	assert.match(viewOf().note, /^Another caller/);
});

test("the list of jobs is read again once one of its jobs has ended, or it could not be read", async () => {
	const job = { id: "job_0", verb: "cycle", by: "anna", started: new Date().toISOString(), seconds: null, outcome: null };
	for (const [list, more] of [[[job], 1], [[{ ...job, seconds: 3, outcome: "done" }], 0], [null, 1]]) {
		await open();
		host.pve = (post) => (post.verb === "history" ? { outcome: "done", reached: true, ...list && { jobs: list } } : undefined);
		await reload();
		const before = count("history");
		run.runVerb("status");
		await turn();
		assert.equal(count("history") - before, more);
	}
});

// --- the watch after a start ---

const screens = () => count("screen");
const whenScreen = (answer) => { host.pve = (post) => (post.verb === "screen" ? { ...answer, ...answer.outcome && { started: new Date().toISOString() } } : undefined); };
const SEEN = { outcome: "done", reached: true, state: "running", guest: "silent", screen_png: "x" };

async function watched(answer = SEEN) {
	await open();
	whenScreen(answer);
	await confirm("cycle");
	assert.deepEqual([viewOf().phase, viewOf().watch.on], ["done", true]);
}

test("the watch asks every 3 s, each time under another id, and ends once the guest answers", async () => {
	await watched();
	await pass(9);
	assert.equal(new Set(asked("screen").map(({ id }) => id)).size, 3);
	whenScreen({ ...SEEN, guest: "answers" });
	await pass(3);
	assert.deepEqual([viewOf().watch.on, viewOf().watch.found, screens()], [false, "guest", 4]);
	await pass(30);
	assert.equal(screens(), 4);
});

test("after 90 s without a sign of life the watch ends, and continues at a press", async () => {
	await watched();
	await pass(93);
	assert.deepEqual([viewOf().watch.on, viewOf().watch.found], [false, "nothing"]);
	const before = screens();
	look.watchGuest("devvm");
	await pass(6);
	assert.equal(screens(), before + 2);
});

for (const [what, answer] of [
	["a lost one", LOST], ["an error of the handler", { error: { code: "overloaded", message: "later", reached: false } }],
	["one that did not reach the host", { outcome: "unreached", reached: false, state: "unknown" }],
]) {
	test(`a look that fails does not end the watch, and says nothing of the guest: ${what}`, async () => {
		await watched();
		host.pve = whenVerb("screen", answer);
		await pass(60);
		assert.equal(viewOf().watch.on, true);
		await pass(40);
		assert.deepEqual([viewOf().watch.on, viewOf().watch.found], [false, "unseen"]);
	});
}

test("a caller who may not see the console asks once", async () => {
	await watched({ error: { code: "forbidden", message: "no", reached: false } });
	await pass(30);
	assert.deepEqual([screens(), viewOf().watch.on, viewOf().watch.found], [1, false, "unseen"]);
});

test("a device that slept looks once more, and claims nothing of the time in which it did not", async () => {
	for (const [guest, found] of [["answers", "guest"], ["silent", "nothing"], [null, "unseen"]]) {
		await watched(guest ? { ...SEEN, guest } : LOST);
		await sleepFor(3_600);
		await pass(10);
		assert.equal(screens(), 0);
		await wake();
		await pass(3);
		assert.deepEqual([screens(), viewOf().watch.on, viewOf().watch.found], [1, false, found]);
	}
});

test("a person ends the watch, and a VM that is off is not waited for", async () => {
	for (const end of [() => dispatch("watch-ended", { found: "unseen" }), () => whenScreen({ ...SEEN, state: "stopped", screen_png: null })]) {
		await watched();
		end();
		await pass(4);
		const before = screens();
		await pass(30);
		assert.deepEqual([viewOf().watch.on, screens()], [false, before]);
	}
});

test("the screen stays on until the guest is back, and a device that refuses runs verbs all the same", async () => {
	await watched();
	assert.equal(locks.held, 1);
	await locks.last.release(); // by the browser, as the page is hidden
	await sleepFor(1);
	assert.equal(locks.held, 0);
	await wake();
	assert.equal(locks.held, 1);
	dispatch("watch-ended", { found: "unseen" });
	await turn();
	assert.equal(locks.held, 0);
	locks.isRefused = true;
	await watched();
	locks.isRefused = false;
	assert.equal(locks.held, 0);
});

// --- several VMs ---

const names = (number) => Array.from({ length: number }, (_, n) => `vm${n}`);
const here = (name, more = {}) => ({ name, ...more });

test("an answer stays with its VM, and a VM that is left holds no connection", async () => {
	await open([here("devvm"), here("twin")]);
	host.pve = (post) => (post.vm === "devvm" ? never : undefined);
	run.runVerb("status", { quiet: true, unasked: true });
	await turn();
	dispatch("vm-chosen", { name: "twin" });
	await turn();
	assert.equal(asked("status", "devvm").at(-1).isEnded, true);
	dispatch("vm-chosen", { name: "devvm" });
	await turn();
	assert.deepEqual([...new Set(posts.filter(({ isEnded }) => !isEnded).map(({ verb }) => verb))].sort(), ["history", "status"]);
	refreshHistory("devvm"); // it waits for the reading that is under way, and must not follow it
	dispatch("vm-chosen", { name: "twin" });
	await turn();
	assert.deepEqual(posts.filter(({ isEnded }) => !isEnded), []);
	let go;
	const held = new Promise((done) => { go = done; });
	host.pve = (post) => (post.vm === "devvm" && post.verb === "reset" ? held : undefined);
	dispatch("vm-chosen", { name: "devvm" });
	await turn();
	await confirm("reset");
	dispatch("vm-chosen", { name: "twin" });
	go(answerOf({ last: "job_1" }));
	await turn();
	assert.deepEqual(["devvm", "twin"].map((name) => [viewOf(name).phase, Object.keys(viewOf(name).sent).length]), [["done", 1], ["idle", 0]]);
});

test("the list asks each host once, and apart for what it leaves out and for an older host agent", async () => {
	await open([here("devvm"), ...names(9).map((name, n) => here(name, { host: n < 6 ? "new" : "old" }))]);
	const told = (name) => ({ vm: name, ...answerOf({ last: "none", verdict: verdictOf("qemu-running") }) });
	host.pve = ({ verb, vm }) => {
		if (verb !== "states") return undefined;
		return vm === "vm0" ? answerOf({ state: "unknown", states: names(5).map(told) }) : { outcome: "failed", reached: true, state: "unknown", verdict: verdictOf("agent-refused") };
	};
	posts.length = 0;
	look.checkAll();
	await turn();
	await turn();
	assert.deepEqual(asked("states").map(({ vm }) => vm).sort(), ["vm0", "vm6"]);
	assert.deepEqual(asked("status").map(({ vm }) => vm).filter((name) => name !== "devvm").sort(), ["vm5", "vm6", "vm7", "vm8"]);
	assert.deepEqual(names(9).filter((name) => viewOf(name).seen?.state !== "running"), []);
});

test("at most three checks of the list are under way, hosts that are out of reach last, and none asks for jobs", async () => {
	await open([here("devvm"), ...names(12).map((name, n) => here(name, { proxmox: n < 6 ? "timeout" : "answering" }))]);
	posts.length = 0;
	const waiting = [];
	let most = 0;
	host.pve = (post) => {
		if (post.vm === "devvm") return undefined;
		most = Math.max(most, posts.filter((each) => each.vm !== "devvm" && !each.isEnded).length);
		return new Promise((done) => { waiting.push(done); });
	};
	look.checkAll();
	await turn();
	assert.equal(waiting.length, 3);
	while (waiting.length) {
		waiting.shift()({ error: { code: "not-found", message: "no such VM", reached: false } });
		await turn();
	}
	const order = [...new Set(posts.map(({ vm }) => vm))].filter((name) => name !== "devvm");
	assert.deepEqual([most, order.length, order.slice(0, 6).every((name) => Number(name.slice(2)) >= 6)], [3, 12, true]);
	assert.deepEqual(posts.filter(({ verb, vm }) => verb === "history" && vm !== "devvm"), []);
});

test("the list is kept up to date while it is shown and the device is awake; else the shown VM alone is", async () => {
	await open([here("devvm"), here("twin")]);
	await pass(40);
	assert.deepEqual([count("status", "devvm") > 2, count("status", "twin")], [true, 0]);
	dispatch("tab-chosen", { tab: "list" });
	await pass(1);
	assert.equal(count("status", "twin"), 1);
	await pass(40);
	assert.equal(count("status", "twin"), 3);
	await sleepFor(100);
	await pass(40);
	assert.equal(count("status", "twin"), 3);
	await wake();
	assert.equal(count("status", "twin"), 4);
	assert.equal(count("history", "twin"), 0); // which its host reads from a disk that may hang: not before it is opened
	dispatch("vm-chosen", { name: "twin" });
	await turn();
	assert.ok(count("history", "twin") > 0);
});

test("that a host was never proven is said by an agent that can know it, and of the only host", async () => {
	const at = { at: "2026-11-20T03:12:40Z", how: "drill" };
	for (const [proxmox, proofs, how] of [["not-checked", [null], null], ["answering", [at, at], null], ["answering", [null], undefined], ["answering", [at], "drill"]]) {
		await open([here("devvm", { proxmox })]);
		host.hosts = Object.fromEntries(proofs.map((proven, n) => [`pve${n}`, { proven }]));
		await wake();
		const { proven } = viewOf();
		assert.equal(proven && proven.how, how);
	}
});
