// The conversation's part of the reducer: what each event changes, and what it leaves.

import assert from "node:assert/strict";
import { test } from "node:test";
import { keptOf, proposalObstacle } from "../../static_site/state/conversation.js";
import { NOW, OPENED, VM, after, statusCame } from "./samples.js";

const TURN = { id: "msg_1", prompt: "Why?", own: false, began: NOW, body: "{}" };
const OWN = { ...TURN, id: "msg-after-job_1", own: true };
const LOG = { session: "s2", id: "c1", turns: [], cost: 0.5, cut: null };
const CHECK = { job: "job_1", byHand: false };
const opened = (kept = {}) => ["chat-opened", { vm: VM, kept }];
const said = (...events) => after(...OPENED, opened(), ...events);
const chatOf = (state) => state.chats[VM];
const chatAfter = (...events) => chatOf(said(...events));
const begins = (turn = TURN) => ["turn-begun", { turn }];
const ends = (ok = true, turn = TURN) => ["turn-ended", { turn, ok, answer: "Idle." }];

test("a new conversation has nothing to read; one with a token is unread", () => {
	assert.equal(chatAfter().log, "read");
	assert.equal(chatAfter(opened({ session: "s", id: "c" })).log, "unread");
});

test("no two conversations have one number, also after the key was forgotten", () => {
	const first = chatAfter();
	assert.notEqual(chatAfter(opened()).number, first.number);
	assert.notEqual(chatAfter(["locked", {}], opened()).number, first.number);
});

test("another conversation keeps what is written", () => {
	assert.equal(chatAfter(["draft-left", { words: "And" }], opened({ session: "s" })).draft, "And");
});

test("an event about a VM without a conversation changes nothing", () => {
	assert.deepEqual(after(...OPENED, begins()).chats, {});
});

test("a turn that ends well takes the failure and the check with it; one that fails leaves them", () => {
	const before = [["turn-failed", { failure: { notice: "No." }, words: "" }], ["check-due", { check: CHECK }]];
	const well = chatAfter(begins(), ...before, ends());
	assert.deepEqual([well.turn, well.failure, well.check], [null, {}, CHECK]);
	assert.deepEqual(well.turns, [{ ...TURN, answer: "Idle." }]);
	const failed = chatAfter(begins(), ...before, ends(false));
	assert.deepEqual([failed.failure, failed.check], [{ notice: "No." }, CHECK]);
});

test("a question of a person drops the check; the check itself is sent once, and stays until Claude has answered", () => {
	const due = ["check-due", { check: CHECK }];
	assert.equal(chatAfter(due, begins()).check, null);
	assert.deepEqual(chatAfter(due, begins(OWN)).check, { ...CHECK, byHand: true });
	assert.deepEqual(chatAfter(due, begins(OWN), ends(false, OWN)).check, { ...CHECK, byHand: true });
	assert.equal(chatAfter(due, begins(OWN), ends(true, OWN)).check, null);
});

test("the rest of a turn that was cut off can be asked for, and costs no check", () => {
	const state = said(begins(), ["check-due", { check: CHECK }], ["turn-cut"]);
	const { turn, cut } = chatOf(state);
	assert.deepEqual([turn, cut], [null, TURN]);
	const again = chatAfter(begins(), ["check-due", { check: CHECK }], ["turn-cut"], begins());
	assert.deepEqual([again.turn, again.cut, again.check], [TURN, null, CHECK]);
});

test("a question without an answer is written again, unless something else is", () => {
	const fails = ["turn-failed", { words: "Why?" }];
	assert.equal(chatAfter(fails).draft, "Why?");
	assert.equal(chatAfter(["draft-left", { words: "And" }], fails).draft, "And");
});

test("a failure that says nothing of Claude leaves what was said of it", () => {
	const down = { notice: "Down.", trouble: "claude-auth" };
	assert.deepEqual(chatAfter(["turn-failed", { failure: down }], ["turn-failed", {}]).failure, down);
});

test("a device keeps the token, and the question that has no answer yet, but neither body nor answer", () => {
	assert.equal(keptOf(chatAfter()), null);
	const open = { id: TURN.id, prompt: "Why?", own: false, began: NOW };
	const came = ["session-came", { session: "s", id: "c" }];
	assert.deepEqual(keptOf(chatAfter(begins(), came)), { session: "s", id: "c", turn: open });
	assert.deepEqual(keptOf(chatAfter(begins(), came, ["turn-cut"])), { session: "s", id: "c", turn: open });
	assert.deepEqual(keptOf(chatAfter(begins(), came, ends())), { session: "s", id: "c", turn: null });
	assert.equal(chatAfter(opened({ turn: { ...open, began: undefined } })).cut.began, 0);
});

test("what was said before comes whole, or is said to be lost, or is over", () => {
	const asked = [opened({ session: "s", id: "c" }), ["log-asked"]];
	assert.equal(chatAfter(...asked).log, "reading");
	assert.deepEqual({ ...chatAfter(...asked, ["log-came", { log: LOG }]), ...LOG, log: "read" }, chatAfter(...asked, ["log-came", { log: LOG }]));
	const lost = chatAfter(...asked, ["log-lost", { notice: "No." }]);
	assert.deepEqual([lost.log, lost.session, lost.failure], ["failed", "s", { notice: "No." }]);
	const over = chatAfter(...asked, ["log-over", { notice: "No." }]);
	assert.deepEqual([over.log, over.session, over.id], ["read", undefined, undefined]);
});

test("a token that another tab brought makes the conversation unread", () => {
	const chat = chatAfter(["log-came", { log: LOG }], ["session-moved", { session: "s3" }]);
	assert.deepEqual([chat.session, chat.id, chat.log], ["s3", "c1", "unread"]);
});

test("what was forgotten is gone", () => {
	const state = said(begins(), came(), ["talks-came", { talks: { list: [], none: "" } }], ["locked", {}]);
	assert.deepEqual([state.chats, state.proposals, state.talks], [{}, {}, null]);
});

// --- proposals ---

const came = (status = "open", at = NOW, more = {}) => ["proposal-came", { job: "job_1", proposal: { vm: VM, verb: "reset", at, last: "job_0", talk: 0, status, ...more } }];
const noted = (words, status, ago = 0) => ["proposal-noted", { job: "job_1", words, status }, ago];

test("a proposal can be approved only when it is known to be open, and for a day", () => {
	assert.equal(proposalObstacle(said(came()), "job_1", NOW), "");
	for (const status of ["held", "unsure"]) assert.match(proposalObstacle(said(came(status)), "job_1", NOW), /^Checking/);
	assert.equal(proposalObstacle(said(came("held"), noted("", "open")), "job_1", NOW), "");
	assert.match(proposalObstacle(said(came("open", NOW - 86_400_000)), "job_1", NOW), /^Too old/);
	assert.match(proposalObstacle(said(came("open", NOW + 86_400_000)), "job_1", NOW), /^Too old/);
	assert.match(proposalObstacle(said(came("open", NOW, { last: "" })), "job_1", NOW), /^Too old/);
	assert.equal(proposalObstacle(said(), "job_other", NOW), "");
});

const job = (id, verb = "reset", by = "anna") => ({ id, verb, by, started: "2026-11-27T03:04:12Z", seconds: 4, outcome: "done" });
const listed = (...jobs) => ["jobs-came", { jobs, trouble: "" }];
const acted = (last) => statusCame("running", "qemu-running", 0, { last });
const SPENT = { status: "spent", words: "Spent: reset at 03:04:12 by anna. Ask Claude again." };
const OPEN = { status: "open", words: "" };
for (const [what, events, expected] of [
	["another act since", [came(), acted("job_7"), listed(job("job_7"), job("job_0"))], SPENT],
	["an act that the list has first", [came(), listed(job("job_7"), job("job_0")), acted("job_7")], SPENT],
	["an act before the proposal came", [acted("job_7"), listed(job("job_7"), job("job_0")), came("held")], SPENT],
	["the first act of all", [came("open", NOW, { last: "none" }), acted("job_7"), listed(job("job_7"))], SPENT],
	["nothing since", [came(), acted("job_0"), listed(job("job_0"), job("job_7"))], OPEN],
	["evidence since", [came(), acted("job_0"), listed(job("read_1", "forensics"), job("job_0"))], OPEN],
	["a refusal since", [came(), acted("job_0"), listed({ ...job("job_7"), outcome: "refused" }, job("job_0"))], OPEN],
	["an act that Claude saw and this page did not", [came("open", NOW, { last: "job_8" }), acted("job_7"), listed(job("job_7"), job("job_0"))], OPEN],
	["its own act", [came(), acted("job_1"), listed(job("job_1"), job("job_0"))], OPEN],
	["a word that it was not used, and another act", [acted("job_7"), listed(job("job_7"), job("job_0")), came("held"), noted("", "open")], SPENT],
]) {
	test(`a proposal is for the state that Claude saw: ${what}`, () => {
		const { status, words } = said(...events).proposals.job_1;
		assert.deepEqual({ status, words }, expected);
	});
}

test("a note changes the words, and the status only if it names one; an old proposal is spent", () => {
	const statusOf = (...events) => said(...events).proposals.job_1.status;
	assert.equal(statusOf(came("unsure"), noted("x")), "unsure");
	assert.equal(statusOf(came(), noted("Reset: done", "spent")), "spent");
	assert.equal(statusOf(came("open", NOW - 86_400_000), noted("Too old")), "spent");
	assert.equal(said(came(), noted("Wait.")).proposals.job_1.words, "Wait.");
	assert.deepEqual(said(noted("x")).proposals, {});
});
