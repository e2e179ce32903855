// The bar: what became of the last press, the stages with their times, its one button.

import assert from "node:assert/strict";
import { test } from "node:test";
import { barOf } from "../../static_site/vm/bar.js";
import { newView } from "../../static_site/state/shape.js";
import { ANYWAY, VERBS } from "../../static_site/state/verbs.js";
import { OPENED, NOW, TONES, after, begun, evidenceCame, pictureCame, settledEvent, stage, statusCame, verdictOf, viewOf } from "./samples.js";

const barAfter = (...events) => {
	const state = after(...OPENED, ...events);
	return barOf(state, viewOf(state), NOW);
};
// The steps as one line each: mark, label, seconds.
const MARKS = { good: "+", bad: "x", warn: "!", busy: ">", unknown: "?", "": "-" };
const stepsAfter = (...events) => barAfter(...events).steps.map(({ label, tone, seconds }) => `${MARKS[tone]}${label}${seconds === null ? "" : ` ${seconds}`}`);

// --- the stages of a verb, as they come ---

// What the host agent sends in a power-cycle: a stop proves that no process is left, and a start that QEMU runs.
const CYCLE = ["preflight", "forensics", "stop", "verify", "start", "verify"];
// `count` stages, of which each lasts four seconds; the last one began four seconds before NOW.
const cycleOf = (count) => CYCLE.slice(0, count).map((name, n) => stage(name, n, 4 * (count - n)));

test("a power-cycle's stages come one after the other, each with its time", () => {
	const steps = (count) => stepsAfter(begun("cycle", 30), ...cycleOf(count)).join(" ");
	assert.equal(steps(0), "");
	assert.equal(steps(1), "-Evidence -Stop -Start -Check");
	assert.equal(steps(2), ">Evidence 4 -Stop -Start -Check");
	assert.equal(steps(3), "+Evidence 4 >Stop 4 -Start -Check");
	assert.equal(steps(4), "+Evidence 4 >Stop 8 -Start -Check"); // that no process is left belongs to the stop
	assert.equal(steps(5), "+Evidence 4 +Stop 8 >Start 4 -Check");
	assert.equal(steps(6), "+Evidence 4 +Stop 8 +Start 4 >Check 4");
});

test("the word and the timer are of the stage that continues", () => {
	const shown = [0, 1, 2, 3, 4, 5, 6].map((count) => {
		const { word, timer, tone, act } = barAfter(begun("cycle", 30), ...cycleOf(count));
		assert.deepEqual([tone, act], ["busy", "stop-waiting"]);
		return `${word}, ${timer}`;
	});
	assert.deepEqual(shown, [
		"Power-cycle: sending, 30 s", "Power-cycle sent, 30 s", "Power-cycle: evidence, 4 s, usually up to 20 s", "Power-cycle: stop, 4 s, usually up to 75 s",
		"Power-cycle: stop, 8 s, usually up to 75 s", "Power-cycle: start, 4 s, usually up to 90 s", "Power-cycle: check, 4 s, usually up to 60 s",
	]);
});

test("a stage that takes longer than usual says so, and no limit that is over", () => {
	const { timer } = barAfter(begun("stop", 130), stage("preflight", 0, 125), stage("stop", 1, 110));
	assert.equal(timer, "110 s, longer than usual");
});

test("a step that goes back begins again", () => {
	const stop = ["preflight", "forensics", "stop", "verify", "stop"].map((name, n) => stage(name, n, 10 - n));
	assert.deepEqual(stepsAfter(begun("stop", 12), ...stop), ["+Evidence 1", ">Stop 8", "-Check"]);
});

test("a page that attaches gets all stages again, and no time changes by it", () => {
	const once = [begun("cycle", 30), ...cycleOf(5)];
	const again = CYCLE.slice(0, 5).map((name, n) => stage(name, n));
	for (let count = 1; count <= 5; count += 1) assert.deepEqual(stepsAfter(...once, ...again.slice(0, count)), stepsAfter(...once));
	assert.deepEqual(stepsAfter(...once, begun("cycle", 0, { lost: true }), ...again), stepsAfter(...once));
	assert.deepEqual(stepsAfter(...once, begun("cycle", 0, { id: "id_2" })), []);
});

test("done: every step is, also one that was not needed", () => {
	const done = settledEvent("cycle", { last: "id_1", seconds: 8 });
	assert.deepEqual(stepsAfter(begun("cycle", 30), ...cycleOf(6), done), ["+Evidence 4", "+Stop 8", "+Start 4", "-Back"]);
	const stopped = ["preflight", "forensics", "start", "verify"].map((name, n) => stage(name, n, 4 - n));
	assert.deepEqual(stepsAfter(begun("cycle", 5), ...stopped, done), ["+Evidence 1", "+Stop", "+Start 1", "-Back"]);
});

test("failed: the step it got to is marked, and its time stands still", () => {
	const failed = settledEvent("cycle", { outcome: "failed", state: "running", last: "id_1", stage: "stop", verdict: verdictOf("verb-failed") }, 1);
	assert.deepEqual(stepsAfter(begun("cycle", 30), ...cycleOf(3), failed), ["+Evidence 4", "xStop 3", "-Start", "-Check"]);
});

test("refused before its first step: no step is shown", () => {
	const refused = settledEvent("cycle", { outcome: "refused", verdict: verdictOf("locked") }, 1);
	assert.deepEqual(stepsAfter(begun("cycle", 30), ...cycleOf(1), refused), []);
});

test("no connection: no step seems to be under way", () => {
	const done = settledEvent("reset", { last: "id_1", seconds: 8 });
	assert.deepEqual(stepsAfter(begun("reset", 30), stage("reset", 0, 9), done, ["health-lost", { next: 0 }, 2], ["health-lost", { next: 0 }, 1]), []);
});

test("an outcome that is not known leaves its step open", () => {
	const open = ["act-open", { answer: { message: "no answer" }, acting: true }];
	assert.deepEqual(stepsAfter(begun("cycle", 30), ...cycleOf(3), open), ["+Evidence 4", ">Stop 4", "-Start", "-Check"]);
});

test("each verb shows its own stages, under names and limits that it has", () => {
	for (const verb of ["cycle", "reset", "start", "stop"]) {
		const { steps } = barAfter(begun(verb, 9), ...VERBS[verb].stages.map((name, n) => stage(name, n, 8 - n)));
		assert.equal(steps.length, VERBS[verb].stages.length);
		for (const { label, limit } of steps) assert.ok(label && limit > 0, verb);
		assert.equal(steps.at(-1).tone, "busy");
	}
});

const BEAT = { state: "fresh", at: "2026-11-27T03:12:01Z", says: "the guest's kernel answered 1 s ago" };
const ends = (...events) => (({ tone, sentence }) => [tone, sentence])(barAfter(...events));

test("the watch takes the check's place, and ends in what it found", () => {
	const begins = [begun("start", 30), stage("preflight", 0, 29), stage("start", 1, 28), stage("verify", 2, 25), settledEvent("start", { last: "id_1", seconds: 5 }, 20)];
	const on = [...begins, ["watch-begun", { seconds: 90 }, 20]];
	assert.deepEqual(stepsAfter(...on), ["+Evidence", "+Start 3", ">Back 20"]);
	const bar = barAfter(...on);
	assert.deepEqual([bar.word, bar.timer, bar.tone, bar.act], ["Start done", "20 s of 90 s", "busy", "stop-looking"]);
	for (const [found, tone, sentence, act] of [
		["guest", "good", "Took 5 s, back after 20 s", "keep-looking"],
		["nothing", "unknown", "The guest's heartbeat is not known. There is no picture either", "keep-looking"],
		["stopped", "warn", "But the VM is off again", "look"],
		["unseen", "good", "at 03:12:20; could not see if the guest is back", "look"],
	]) {
		const ended = barAfter(...on, ["watch-ended", { found }]);
		assert.deepEqual([ended.word, ended.tone, ended.sentence, ended.act], ["Start done", tone, sentence, act]);
	}
	const had = [statusCame("running", "qemu-running", 40, { last: "id_1", heartbeat: BEAT }), ...on];
	const nothing = ["watch-ended", { found: "nothing" }];
	assert.deepEqual(ends(...had, nothing), ["warn", "No sign of life after 20 s, and no picture"]);
	assert.deepEqual(ends(pictureCame("job_0", 31), ...had, nothing), ["warn", "No sign of life after 20 s, and no picture"]); // it shows the guest before the start
	assert.deepEqual(ends(...had, pictureCame("id_1", 9), nothing), ["warn", "No sign of life after 20 s: look at the picture"]);
	const none = settledEvent("status", { last: "id_1", heartbeat: { state: "none", at: null, says: "no heartbeat is available: why" } }, 1, { loud: false });
	assert.deepEqual(ends(...on, none, pictureCame("id_1", 9), nothing), ["unknown", "No heartbeat is available: why. Look at the picture"]);
	assert.equal(barAfter(...on, ["health-lost", {}, 2], ["health-lost", {}, 1]).word, "No connection");
});

// --- each phase: tone, word, and the one button ---

const HOLDER = { job: "job_9", verb: "cycle", by: "operator2", since: "2026-11-27T03:12:00Z", deadline: 420 };
const verbEnds = (verb, more) => [begun(verb, 5), settledEvent(verb, more)];
const PHASES = {
	"nothing was done yet": [[], "unknown", "Not looked yet", "look"],
	"a check is under way": [[["read-begun", { verb: "status", loud: true }, 2]], "busy", "Check status…", "stop-waiting"],
	"a look by itself": [[["read-begun", { verb: "forensics", loud: false }, 2]], "busy", "Looking…", ""],
	"a check": [[statusCame("running", "qemu-running", 3)], "unknown", "Checked 03:12:37", "look"],
	"a look": [[evidenceCame("running", "healthy", 3, { }), ["waiting-stopped", {}]], "unknown", "Looked 03:12:37", "look"],
	"evidence that was asked for": [[["read-begun", { verb: "forensics", loud: true }, 5], evidenceCame("running", "healthy")], "unknown", "Evidence taken", "look"],
	"another caller's job": [[statusCame("running", "qemu-running", 0, { holder: HOLDER })], "busy", "Someone is on it", "watch"],
	"a stop that is done": [verbEnds("stop", { state: "stopped", last: "id_1" }), "good", "Stop done", "look"],
	"nothing was sent": [verbEnds("reset", { outcome: "unreached", reached: false, state: null, message: "the host refused the connection" }), "warn", "Reset not sent", "look"],
	"a refusal": [verbEnds("reset", { outcome: "refused", verdict: verdictOf("locked") }), "warn", "Reset refused", "look"],
	...Object.fromEntries(Object.keys(ANYWAY).map((code) => [`a refusal that can be lifted, ${code}`, [verbEnds("cycle", { outcome: "refused", anyway: code, verdict: verdictOf(code) }), "warn", "Power-cycle refused", "anyway"]])),
	...Object.fromEntries([null, "", "newer", "constructor", true].map((anyway) => [`a refusal that this page can't lift, ${JSON.stringify(anyway)}`, [verbEnds("reset", { outcome: "refused", anyway, verdict: verdictOf("newer") }), "warn", "Reset refused", "look"]])),
	"a holder in between": [verbEnds("reset", { outcome: "busy", holder: HOLDER }), "busy", "Someone is on it", "watch"],
	"a holder that is gone": [[...verbEnds("reset", { outcome: "busy", holder: HOLDER }), settledEvent("status", { state: "running" }, 0, { loud: false })], "warn", "Reset not done", "look"],
	"a failure": [verbEnds("stop", { outcome: "failed", last: "id_1", verdict: verdictOf("verb-failed") }), "bad", "Stop failed", "look"],
	"no answer, still asking": [[begun("stop", 5), ["act-open", { answer: {}, acting: true }]], "unknown", "No answer", "stop-waiting"],
	"no answer": [[begun("stop", 5), ["act-open", { answer: {}, acting: false }]], "unknown", "No answer", "ask-again"],
	"nothing answers": [[["health-lost", {}, 2], ["health-lost", { next: NOW + 4_000 }, 1]], "unknown", "No connection", "try-now"],
};
for (const [what, [events, tone, word, act]] of Object.entries(PHASES)) {
	test(`after ${what}: ${word}`, () => {
		const bar = barAfter(...events);
		assert.deepEqual([bar.tone, bar.word, bar.act], [tone, word, act]);
		assert.ok(TONES.includes(bar.tone));
		assert.equal(Boolean(bar.act), Boolean(bar.actLabel));
		assert.doesNotMatch([bar.sentence, bar.timer, bar.hint, ...bar.lines].join(" "), /undefined|NaN|null|Invalid/);
	});
}

test("a refusal and an unsent verb say that nothing happened, and nothing else does", () => {
	for (const [what, [events]] of Object.entries(PHASES)) {
		const { sentence } = barAfter(...events);
		assert.equal(/^Nothing was sent: /.test(sentence), what === "nothing was sent", what);
		assert.equal(/^Nothing was changed: /.test(sentence), what.startsWith("a refusal"), what);
	}
});

test("while an outcome is open, a check neither paints over it nor says that nothing was sent", () => {
	const open = [begun("stop", 9), ["act-open", { answer: {}, acting: false }, 8]];
	for (const more of [{}, { outcome: "unreached", reached: false, state: null }]) {
		const bar = barAfter(...open, ["read-begun", { verb: "status", loud: false }, 2], settledEvent("status", more, 0, { id: "read_1", loud: false }));
		assert.deepEqual([bar.word, bar.act], ["No answer", "ask-again"]);
		assert.match(bar.sentence, /may have happened/);
	}
});

test("locked: no stages and no word of what was done", () => {
	const state = after(...OPENED.slice(0, 3), ["key-missing"]);
	const bar = barOf(state, viewOf(state), NOW);
	assert.deepEqual([bar.word, bar.sentence, bar.act], ["Locked", "Enter the signing key", ""]);
});

test("a nudge is said for five seconds", () => {
	const nudge = (ago) => barAfter(["nudged", { words: "Wait for the answer." }, ago]).sentence;
	assert.equal(nudge(4), "Wait for the answer.");
	assert.notEqual(nudge(5), "Wait for the answer.");
	assert.equal(barAfter(["nudged", { words: "Wait for the answer." }, 4], statusCame("running", "qemu-running", 1)).sentence, "Wait for the answer."); // an answer to a check leaves it
});

test("a link to no VM says nothing of another", () => {
	const state = after(...OPENED, ["vm-unknown", { name: "ghost" }]);
	const bar = barOf(state, newView(""), NOW);
	assert.deepEqual([bar.word, bar.sentence, bar.act], ["No such VM", "Choose one under VMs", ""]);
});

test("what another tab of this device does is no stranger's", () => {
	const held = statusCame("running", "qemu-running", 0, { holder: { job: "job_9", verb: "cycle", by: "anna", since: "2026-11-27T03:12:00Z", deadline: 420 } });
	assert.equal(barAfter(held).word, "Someone is on it");
	assert.equal(barAfter(["sent-heard", { ids: ["job_9"] }], held).word, "Your other tab is on it");
});
