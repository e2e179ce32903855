// The events of a past turn: what was retracted is gone, and the rest is drawn in as few pieces as can be.

import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location = new URL("https://vm.example/breakglass/");
const { joinTexts } = await import("../../static_site/chat/replay.js");
const { endingOf, failureOf } = await import("../../static_site/chat/errors.js");

const text = (n, words) => ({ type: "text", n, text: words });
const tool = (n) => ({ type: "tool", n });
const retract = (n, first) => ({ type: "text", n, text: "", retract: first });
const drawn = (events, goesOn = false) => joinTexts(events, goesOn).map(({ type, text: words }) => words ?? type);

test("the words between two other events are one text", () => {
	assert.deepEqual(drawn([text(1, "a"), text(2, "b"), tool(3), text(4, "c"), text(5, "d")]), ["ab", "tool", "cd"]);
	assert.deepEqual(drawn([]), []);
});

test("a retraction takes what came before it, and nothing that came after", () => {
	assert.deepEqual(drawn([text(1, "a"), text(2, "b"), retract(3, 2), text(4, "c")]), ["ac"]);
	assert.deepEqual(drawn([text(1, "a"), tool(2), text(3, "b"), retract(4, 1), text(5, "c")]), ["tool", "c"]);
	assert.deepEqual(drawn([text(1, "a"), retract(2, 1), text(3, "b"), retract(4, 3), text(5, "c")]), ["c"]);
});

test("the last words of a turn that continues can still be retracted one by one", () => {
	const events = [text(1, "a"), text(2, "b"), tool(3), text(4, "c"), text(5, "d")];
	assert.deepEqual(drawn(events, true), ["ab", "tool", "c", "d"]);
	assert.deepEqual(joinTexts(events, true).map(({ n }) => n), [1, 3, 4, 5]);
});

test("a long text stays in pieces, so that the page has its turn between them", () => {
	const long = "x".repeat(5_000);
	assert.deepEqual(drawn([text(1, long), text(2, long), text(3, "a"), text(4, "b")]).map((words) => words.length), [10_000, 2]);
});

test("the log itself stays as it is", () => {
	const events = [text(1, "a"), text(2, "b")];
	joinTexts(events, false);
	assert.equal(events[0].text, "a");
});

test("what keeps Claude from answering is said, with its time and what a person can do, and power once", () => {
	for (const [error, notice, trouble, lost] of [
		[{ code: "claude-rate-limited", message: "rate-limited until 03:40 UTC: limit", hint: "wait; the power verbs work without claude" }, /rate limited \(until 03:40/, "claude-rate-limited", false],
		[{ code: "claude-auth", message: "401", hint: "sign in" }, /Claude is not answering.*Sign in\. The power buttons do not need/, "claude-auth", false],
		[{ code: "forbidden", message: 'viewer may not "chat"', hint: "" }, /^Viewer may not "chat"\.$/, "", false],
		[{ code: "session-lost", message: "gone", hint: "x" }, /new conversation/, "", true],
	]) {
		const failure = failureOf(error);
		assert.match(failure.notice, notice);
		assert.ok(failure.notice.split("power").length <= 2);
		assert.deepEqual([failure.trouble, failure.lost], [trouble, lost]);
	}
	assert.match(endingOf({ code: "cancelled" }), /^Stopped\./);
	assert.match(endingOf({ code: "turn-unknown" }), /^Cut off/);
});
