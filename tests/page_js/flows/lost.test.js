// A verb whose answer does not come: what is sent again, for how long, and what settles it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { LOST, asked, confirm, dispatch, getState, host, open, parts, pass, posts, reload, run, setClock, sleepFor, tick, turn, viewOf, wake } from "./page.js";
import { answerOf } from "../samples.js";
import { post } from "../../../static_site/base/send.js";

const only = (verb, ...answers) => (post) => (post.verb === verb ? (answers.length > 1 ? answers.shift() : answers[0]) : undefined);
const later = {};
const held = new Promise((done) => { later.go = done; });
const cycles = () => asked("cycle");

const yes = (isTrusted) => parts.yes.listeners.click({ isTrusted });
for (const [what, ms, act] of [
	["Esc, Enter or Back, which close it", 400, () => parts.confirm.close()],
	["a script's press", 400, () => yes(false)],
	["the second press of a double click", 399, () => yes(true)],
	["a sleep of the device", 400, () => { parts.confirm.close(); yes(true); }],
]) {
	test(`nothing leaves without the dialog's yes: ${what}`, async () => {
		await open();
		run.runVerb("cycle");
		await turn();
		assert.equal(parts.confirm.open, true);
		await tick(ms);
		act();
		parts.confirm.close();
		await pass(2);
		assert.deepEqual(cycles(), []);
	});
}

test("the question names the VM, and another name that its number has on Proxmox; the page's own warning is no word for the host", async () => {
	await open();
	host.pve = (post) => (post.verb === "status" ? answerOf({ last: host.last, proxmox_name: "customer-db" }) : undefined);
	run.runVerb("status");
	await turn();
	await confirm("start"); // of a VM that runs
	assert.deepEqual([parts["confirm-title"].textContent, parts["confirm-small"].textContent], ["Start devvm anyway?", "VM 102, on Proxmox customer-db"]);
	assert.deepEqual(asked("start").map(({ vm, anyway }) => [vm, anyway]), [["devvm", undefined]]);
});

test("a lost answer is asked for again, with the same id and body, and the end is shown", async () => {
	await open();
	host.pve = only("cycle", LOST, LOST, undefined);
	await confirm("cycle");
	assert.deepEqual([viewOf().phase, viewOf().acting], ["unknown", true]);
	await pass(4);
	assert.equal(viewOf().phase, "done");
	const [first, ...more] = cycles().map(({ isEnded, ...body }) => body);
	assert.deepEqual(more, [{ ...first, again: true }, { ...first, again: true }]);
	assert.deepEqual([first.if_state, first.if_last], ["running", "job_0"]);
	assert.deepEqual(new Set(posts.map(({ to }) => to)), new Set(["https://vm.example/breakglass/"])); // valid nowhere else
});

test("after a lost answer, a repeat that did not reach the host settles nothing", async () => {
	await open();
	host.pve = only("cycle", LOST, answerOf({ outcome: "unreached", reached: false }), { error: { code: "overloaded", message: "later", reached: false } });
	await confirm("cycle");
	await pass(5);
	assert.ok(cycles().length > 2);
	assert.equal(viewOf().phase, "unknown");
	await open();
	host.pve = only("cycle", answerOf({ outcome: "unreached", reached: false }));
	await confirm("cycle");
	assert.equal(viewOf().phase, "notSent");
});

test("after a minute a person asks again, for the same id, also after a reload", async () => {
	await open();
	host.pve = only("cycle", LOST);
	await confirm("cycle");
	await pass(70);
	const before = cycles().length;
	const [{ id }] = cycles();
	assert.deepEqual([viewOf().phase, viewOf().acting], ["unknown", false]);
	await pass(70);
	assert.equal(cycles().length, before);
	await reload();
	assert.deepEqual([viewOf().phase, viewOf().open.id, cycles().length], ["unknown", id, 0]);
	host.pve = () => undefined;
	run.askAgain();
	await turn();
	assert.deepEqual([viewOf().phase, cycles().map((post) => [post.id, post.again])], ["done", [[id, true]]]);
});

test("a page that is reloaded within the minute joins its verb by itself", async () => {
	await open();
	host.pve = only("cycle", LOST);
	await confirm("cycle");
	const [{ id }] = cycles();
	host.pve = () => undefined;
	await reload();
	assert.deepEqual([viewOf().phase, cycles().map((post) => [post.id, post.again])], ["done", [[id, true]]]);
});

for (const [what, hours] of [["slept for three hours", 3], ["has its clock set back by three days", -72]]) {
	test(`a device that ${what} between two repeats sends nothing when it wakes`, async () => {
		await open();
		host.pve = only("cycle", LOST);
		await confirm("cycle");
		const { length } = cycles();
		await sleepFor(3_600 * hours);
		await wake();
		await pass(20);
		assert.deepEqual([viewOf().phase, viewOf().acting, cycles().length], ["unknown", false, length]);
	});
}

test("a request that was held for hours is not signed again; one that is young is, under its id", async () => {
	for (const [hours, count] of [[3, 1], [0, 2]]) {
		await open();
		host.pve = (post) => {
			if (post.verb !== "cycle" || post.challenge) return undefined;
			setClock(3_600_000 * hours);
			return { error: { code: "stale-timestamp", message: "old", reached: false, server_time: Date.now() / 1e3, challenge: "x" } };
		};
		await confirm("cycle");
		assert.equal(cycles().length, count);
		assert.equal(new Set(cycles().map(({ id }) => id)).size, 1);
		assert.equal(viewOf().phase, count === 1 ? "notSent" : "done");
	}
});

test("a status that names the open id has the page join it", async () => {
	for (const more of [(id) => ({ last: id }), (id) => ({ holder: { job: id, verb: "cycle", by: "anna", since: new Date().toISOString(), deadline: 60 } })]) {
		await open();
		host.pve = only("cycle", LOST);
		await confirm("cycle");
		await pass(70);
		const [{ id }] = cycles();
		host.pve = (post) => (post.verb === "status" ? answerOf(more(id)) : undefined);
		run.runVerb("status");
		await turn();
		assert.equal(viewOf().phase, "done");
		assert.deepEqual(new Set(cycles().map((post) => post.id)), new Set([id]));
	}
});

test("what an error of the handler says of one attempt is not said of the verb, and an error of a proxy is no answer", async () => {
	await open();
	host.pve = only("cycle", { error: { code: 503, message: "upstream" } }, { error: { code: "overloaded", message: "later" } }, undefined);
	await confirm("cycle");
	assert.equal(viewOf().phase, "unknown");
	await pass(5);
	assert.equal(viewOf().phase, "done");
});

test("of an answer, only a handler's own is one: not a proxy's error, nor a stream that broke off", async () => {
	const gets = async (answer) => {
		await open();
		host.pve = only("screen", answer);
		return post("pve", "id", '{"verb":"screen"}', new AbortController().signal);
	};
	assert.equal(await gets({ error: { code: 503, message: "upstream" } }), null);
	assert.equal(await gets(LOST), null);
	assert.equal((await gets({ error: { code: "overloaded" } })).error.code, "overloaded");
	assert.equal((await gets([{ type: "accepted" }, { outcome: "done" }])).outcome, "done");
});

test("lines of an unknown type are no error, and the result counts", async () => {
	await open();
	host.pve = only("cycle", [{ type: "accepted" }, { type: "mood", text: "fine" }, { type: "stage", stage: "stop", started: new Date().toISOString(), deadline: 60 }, {}, { type: "result", ...answerOf({ last: "job_1" }) }]);
	await confirm("cycle");
	assert.deepEqual([viewOf().phase, viewOf().seen.last], ["done", "job_1"]);
});

test("a key that is refused takes a request that was never accepted with it, and leaves an open outcome", async () => {
	await open();
	host.pve = only("cycle", { error: { code: "unauthorized", message: "no", reached: false } });
	await confirm("cycle");
	assert.equal(getState().key, "revoked");
	host.pve = () => undefined;
	await reload();
	assert.deepEqual([cycles().length, viewOf().phase], [0, "idle"]);
	host.pve = only("cycle", LOST, { error: { code: "unauthorized", message: "no", reached: false } });
	await confirm("cycle");
	await pass(4);
	const [{ id }] = cycles();
	assert.equal(getState().key, "revoked");
	host.pve = () => undefined;
	await reload();
	assert.deepEqual(cycles().map((post) => [post.id, post.again]), [[id, true]]);
});

test("a verb is bound to what the person saw as the question was asked", async () => {
	await open();
	run.runVerb("cycle");
	await turn();
	const seen = { vm: "devvm", state: "paused", last: "job_9", holder: null, heartbeat: null, verdict: null };
	dispatch("states-came", { names: ["devvm"], answer: answerOf({ states: [seen] }), clockOff: 0 });
	assert.equal(viewOf().seen.last, "job_9");
	await tick(400);
	yes(true);
	await turn();
	assert.deepEqual(cycles().map(({ if_state, if_last }) => [if_state, if_last]), [["running", "job_0"]]);
});

test("an answer after Forget changes nothing", async () => {
	await open();
	host.pve = (post) => (post.verb === "cycle" ? held : undefined);
	await confirm("cycle");
	dispatch("locked");
	later.go(answerOf({ last: "job_1" }));
	await turn();
	assert.deepEqual([getState().unlocked, getState().views.devvm?.phase ?? "idle"], [false, "idle"]);
	assert.equal(posts.filter(({ isEnded }) => !isEnded).length, 0);
});

test("a repeat of `running` continues for as long as the host runs the job", async () => {
	await open();
	host.pve = only("cycle", [{ type: "accepted" }, { type: "result", outcome: "running", reached: true }]);
	await confirm("cycle");
	await pass(120);
	assert.deepEqual([viewOf().phase, viewOf().acting], ["running", true]);
	host.pve = () => undefined;
	await pass(9);
	assert.equal(viewOf().phase, "done");
});

test("a proposal that is approved again has its id, so that a request that fails now settles nothing", async () => {
	await open();
	host.pve = only("reset", LOST);
	await confirm("reset", { more: { id: "msg_proposed1", reason: "hung" } });
	await pass(70);
	host.pve = only("reset", answerOf({ outcome: "unreached", reached: false, state: null }));
	await confirm("reset", { more: { id: "msg_proposed1", reason: "hung" } });
	assert.equal(viewOf().phase, "unknown");
	assert.deepEqual(new Set(asked("reset").map(({ id }) => id)), new Set(["msg_proposed1"]));
	assert.deepEqual(asked("reset").at(-1).again, true);
});

test("what lifts a refusal is sent once, under another id, with what the host offered", async () => {
	await open();
	host.pve = only("cycle", answerOf({ outcome: "refused", anyway: "would-not-start" }), undefined);
	await confirm("cycle");
	assert.equal(viewOf().offer, "would-not-start");
	await confirm("cycle", { more: { anyway: viewOf().offer } });
	const [first, second] = cycles();
	assert.notEqual(second.id, first.id);
	assert.deepEqual([viewOf().phase, first.anyway, second.anyway], ["done", undefined, "would-not-start"]);
});
