// The reducer: what each event changes, and above all what it leaves as it is.

import assert from "node:assert/strict";
import { test } from "node:test";
import { reduce } from "../../static_site/state/reduce.js";
import { newState } from "../../static_site/state/shape.js";
import { adviceOf, obstacle } from "../../static_site/state/rules.js";
import { HEALTH, OPENED, NOW, VM, after, begun, evidenceCame, settledEvent, stage, statusCame, verdictOf, viewOf } from "./samples.js";

const stateAfter = (...events) => after(...OPENED, ...events);
const viewAfter = (...events) => viewOf(stateAfter(...events));
const OPEN = [begun("cycle", 9), ["act-open", { answer: { message: "no answer" }, acting: false }, 5]];
const cycleEnds = (more = {}, rest = {}) => settledEvent("cycle", { last: "id_1", seconds: 8.4, ...more }, 0, rest);

function freezeAll(value) {
	if (value && typeof value === "object" && !Object.isFrozen(value)) Object.values(Object.freeze(value)).forEach(freezeAll);
	return value;
}

test("no event changes the state that was there before it", () => {
	const events = [
		...OPENED, statusCame("running", "qemu-running"), evidenceCame("running", "disk-frozen"), begun("cycle"), stage("preflight", 0), stage("stop", 1),
		["output-came", { verb: "cycle", text: "a line\n", first: true }], ["act-open", { answer: {}, acting: true }], cycleEnds(),
		["watch-begun", { seconds: 90 }], ["screen-came", { picture: { png: "", started: "" }, guest: null, state: "running" }], ["watch-ended", { found: "guest" }],
		["jobs-came", { jobs: [], trouble: "" }], ["nudged", { words: "x" }], ["picture-came", { picture: null }], ["look-refused"], ["tick"],
		["act-recalled", { id: "id_2", verb: "stop" }], ["waiting-stopped"], ["draft-left", { words: "x" }], ["proven-heard", { proven: null }],
		["health-slow"], ["health-lost", { next: 0 }], ["vm-chosen", { name: VM }], ["vm-unknown", { name: "x" }], ["tab-chosen", { tab: "chat" }],
		["clock-measured", { off: 5 }], ["key-proved"], ["read-begun", { verb: "status", loud: true }], ["read-dropped"], ["locked", {}], ["key-missing"],
	];
	let state = freezeAll(newState());
	for (const [type, more = {}] of events) state = freezeAll(reduce(state, { type, at: NOW, ...more }));
	assert.equal(state.unlocked, false);
});

test("an event of a VM that is not looked at changes nothing", () => {
	const state = stateAfter();
	for (const [type, more] of [begun("cycle"), stage("stop", 0), cycleEnds(), statusCame("stopped", "qemu-stopped"), ["screen-came", { state: "stopped" }]]) {
		assert.equal(reduce(state, { type, at: NOW, ...more, vm: "other" }), state, type);
	}
});

test("an event of one VM leaves every other as it is", () => {
	const before = stateAfter(["views-opened", { kept: { twin: {} } }]);
	const [type, more] = begun("cycle");
	const state = reduce(before, { type, at: NOW, ...more, vm: "twin" });
	assert.equal(state.views[VM], before.views[VM]);
	assert.equal(state.views.twin.phase, "running");
});

// --- stages ---

test("a stage of another id changes nothing", () => {
	for (const events of [[], [begun("cycle")], OPEN, [begun("cycle"), cycleEnds()]]) {
		const before = viewAfter(...events);
		assert.equal(viewAfter(...events, stage("stop", 0, 0, { id: "id_other" })).stages.length, before.stages.length);
		assert.equal(viewAfter(...events, stage("stop", 0, 0, { id: "id_other" })).phase, before.phase);
	}
});

test("a stage after the end changes nothing", () => {
	const ended = [begun("cycle", 9), stage("stop", 0, 8), cycleEnds()];
	assert.deepEqual(viewAfter(...ended, stage("start", 1)).stages, viewAfter(...ended).stages);
});

test("a stage says until when the host lets the job run, and that an unknown one runs", () => {
	const view = viewAfter(...OPEN, stage("stop", 0, 0, { started: "2026-11-27T03:12:30Z", deadline: 420 }));
	assert.deepEqual(view.deadline, { started: NOW - 10_000, seconds: 420 });
	assert.equal(view.phase, "running");
	assert.equal(view.open.id, "id_1");
});

// --- a read while something is open ---

test("a read while an outcome is open changes neither phase nor what is open", () => {
	const view = viewAfter(...OPEN, ["read-begun", { verb: "status", loud: false }, 1], settledEvent("status", { state: "stopped", last: "job_0" }, 0, { id: "read_1", loud: false }));
	assert.deepEqual([view.phase, view.open, view.verb], ["unknown", { id: "id_1", verb: "cycle" }, "cycle"]);
	assert.equal(view.seen.state, "stopped");
	assert.equal(view.reading, "");
	assert.match(view.sentence, /may have happened/);
});

test("a read that failed keeps what was seen, and says so", () => {
	const view = viewAfter(statusCame("running", "qemu-running", 20), settledEvent("status", { outcome: "unreached", reached: false, state: null, message: "timed out" }, 0, { loud: false }));
	assert.deepEqual([view.seen.state, view.seen.at], ["running", NOW - 20_000]);
	assert.equal(view.trouble, "Could not check at 03:12:40: timed out.");
	assert.equal(viewAfter(statusCame("running", "qemu-running", 20), settledEvent("status", { outcome: "unreached", reached: false }), statusCame("running", "qemu-running")).trouble, "");
});

test("a glance leaves a capture's verdict, while state and last job are the same", () => {
	const kept = (more) => viewAfter(evidenceCame("running", "disk-frozen", 9), statusCame("running", "qemu-running", 0, more)).verdict;
	assert.deepEqual([kept({}).code, kept({}).from], ["disk-frozen", "forensics"]);
	assert.equal(kept({ last: "job_7" }).code, "qemu-running");
	assert.equal(kept({ state: "stopped", verdict: verdictOf("qemu-stopped") }).code, "qemu-stopped");
	assert.equal(viewAfter(evidenceCame("running", "disk-frozen", 9), evidenceCame("running", "healthy")).verdict.code, "healthy");
});

test("a person who stops waiting drops the read alone", () => {
	const view = viewAfter(statusCame("running", "qemu-running", 9), ["read-begun", { verb: "forensics", loud: true }, 2], ["waiting-stopped"]);
	assert.deepEqual([view.phase, view.reading, view.waiting, view.seen.state], ["idle", "", false, "running"]);
});

// --- a verb's end ---

test("an end settles the id, and only that", () => {
	const view = viewAfter(...OPEN, cycleEnds());
	assert.deepEqual([view.phase, view.open, view.acting, view.sent.id_1], ["done", null, false, false]);
});

test("a lost answer is open, an answer `running` continues", () => {
	const lost = viewAfter(begun("stop", 5), ["act-open", { answer: { message: "no answer came back" }, acting: true }]);
	assert.deepEqual([lost.phase, lost.acting, lost.hint], ["unknown", true, "Last try, 03:12:40: no answer came back."]);
	const runs = viewAfter(begun("stop", 5), ["act-open", { answer: { outcome: "running" }, acting: true }]);
	assert.deepEqual([runs.phase, runs.since], ["running", NOW - 5_000]);
});

test("an id that was sent before begins as not known", () => {
	assert.equal(viewAfter(begun("cycle")).phase, "running");
	assert.equal(viewAfter(begun("cycle", 0, { lost: true })).phase, "unknown");
});

test("the verdict of a verb that failed is kept if it says how the VM is", () => {
	const failed = (code) => viewAfter(evidenceCame("running", "disk-frozen", 9), begun("cycle", 5), cycleEnds({ outcome: "failed", verdict: verdictOf(code) })).verdict.code;
	assert.equal(failed("leftover"), "leftover");
	assert.equal(failed("verb-failed"), "disk-frozen");
});

test("another caller's change between two looks is noted, one's own is not", () => {
	const note = (last, ...events) => viewAfter(statusCame("running", "qemu-running", 30), ...events, statusCame("running", "qemu-running", 0, { last })).note;
	assert.equal(note("job_0"), "");
	assert.equal(note("job_7"), "Another caller changed its power between 03:12:10 and 03:12:40.");
	assert.equal(note("id_1", begun("cycle", 20), cycleEnds()), "");
	assert.equal(note("none"), "");
});

test("the commands by hand are those of the last read", () => {
	const lines = ["ssh root@pve1 qm status 102"];
	const view = viewAfter(settledEvent("status", { by_hand: lines }), begun("stop"), settledEvent("stop", { outcome: "failed", by_hand: ["qm stop 102"] }));
	assert.deepEqual(view.byHand, lines);
	assert.deepEqual(view.failure.cures, [{ place: "", command: "qm stop 102" }]);
});

// --- the watch ---

test("only a verb that brings the VM up, and is done, has a watch", () => {
	for (const [verb, more, watched] of [
		["start", {}, true], ["reset", {}, true], ["cycle", {}, true], ["stop", { state: "stopped" }, false],
		["cycle", { outcome: "failed" }, false], ["start", { outcome: "refused" }, false], ["forensics", {}, false],
	]) assert.equal(Boolean(viewAfter(begun("start", 5), settledEvent(verb, more)).watch), watched, `${verb} ${more.outcome}`);
});

test("a watch goes from its verb's end to what it finds", () => {
	const on = [begun("cycle", 30), settledEvent("cycle", { last: "id_1", seconds: 8.4 }, 20), ["watch-begun", { seconds: 90 }, 20]];
	assert.deepEqual(viewAfter(...on).watch, { verb: "cycle", seconds: 8.4, started: NaN, heard: NOW - 20_000, back: null, was: "", fell: "", since: NOW - 20_000, until: NOW + 70_000, on: true, found: "" });
	const look = (more) => viewAfter(...on, ["screen-came", { picture: null, guest: "silent", state: "running", ...more }]);
	assert.equal(look({}).watch.on, true);
	assert.deepEqual([look({ guest: "answers" }).watch.found, look({ guest: "answers" }).watch.until], ["guest", NOW]);
	assert.deepEqual([look({ state: "stopped" }).watch.found, look({ state: "stopped" }).seen.state], ["stopped", "stopped"]);
	assert.equal(viewAfter(...on, ["watch-ended", { found: "nothing" }]).watch.on, false);
	assert.equal(viewAfter(...on, begun("stop")).watch, null);
});

test("Keep looking continues from where the watch began", () => {
	const view = viewAfter(begun("cycle", 200), settledEvent("cycle", { last: "id_1" }, 190), ["watch-begun", { seconds: 90 }, 190], ["watch-ended", { found: "nothing" }, 100], ["watch-begun", { seconds: 90 }]);
	assert.deepEqual([view.watch.since, view.watch.until, view.watch.on, view.watch.found], [NOW - 190_000, NOW + 90_000, true, ""]);
});

test("what is newer than the watch ends it; a look that brings nothing new does not", () => {
	const on = [begun("cycle", 30), settledEvent("cycle", { last: "id_1" }, 20), ["watch-begun", { seconds: 90 }, 20]];
	const quiet = { loud: false };
	assert.ok(viewAfter(...on, settledEvent("status", { last: "id_1" }, 0, quiet)).watch);
	assert.ok(viewAfter(...on, settledEvent("status", { outcome: "unreached", reached: false, last: null }, 0, quiet)).watch);
	assert.equal(viewAfter(...on, settledEvent("status", { last: "job_7" }, 0, quiet)).watch, null);
	assert.equal(viewAfter(...on, evidenceCame("running", "disk-frozen", 0, { last: "id_1" })).watch, null);
});

test("a console that was seen changes the state, and never to one that is not known", () => {
	const seen = (state) => viewAfter(statusCame("running", "qemu-running", 9), ["screen-came", { picture: null, guest: null, state }]).seen;
	assert.deepEqual([seen("paused").state, seen("paused").at], ["paused", NOW]);
	assert.deepEqual([seen("unknown").state, seen("unknown").at], ["running", NOW - 9_000]);
	assert.equal(seen(null).state, "running");
	assert.equal(viewAfter(["screen-came", { picture: null, guest: null, state: "running" }]).seen, null);
});

// --- the page as a whole ---

test("a lock forgets every view", () => {
	const state = stateAfter(statusCame("running", "qemu-running"), ["locked", { refused: true }]);
	assert.deepEqual([state.key, state.unlocked, Object.keys(state.views)], ["refused", false, []]);
});

test("one lost /health is none, two are since the first", () => {
	const one = stateAfter(["health-lost", { next: 0 }, 9]);
	const two = reduce(one, { type: "health-lost", at: NOW, next: 0 });
	assert.deepEqual([one.health.fails, two.health.fails, two.health.downSince], [1, 2, NOW - 9_000]);
	const back = reduce(two, { type: "health-came", at: NOW, answer: HEALTH, next: 0 });
	assert.deepEqual([back.health.fails, back.health.downSince], [0, 0]);
});

test("the first name is chosen once, the kept one before it", () => {
	const vms = ["devvm", "twin"].map((name) => ({ name, vmid: 1, proxmox: "answering", since: null }));
	const chosen = (choice, ...events) => after(...events, ["names-came", { vms, choice }]).vm;
	assert.equal(chosen(null), "devvm");
	assert.equal(chosen("twin"), "twin");
	assert.equal(chosen("gone"), "devvm");
	assert.equal(chosen("devvm", ["names-came", { vms, choice: "twin" }]), "twin");
	assert.equal(after(["names-came", { vms: [], choice: "twin" }]).vm, "");
	assert.equal(after(...OPENED, ["names-came", { vms: vms.slice(1), choice: null }]).vm, "devvm"); // a reload removed it: no other takes its place
});

test("what was looked at before the names were known is the first VM's", () => {
	const state = after(["views-opened", { kept: { "": {} } }], ["unlocked"], [statusCame("paused", "qemu-paused")[0], { ...statusCame("paused", "qemu-paused")[1], vm: "" }], ["names-came", { vms: HEALTH.vms, choice: null }]);
	assert.deepEqual([Object.keys(state.views), state.views[VM].seen.state, state.views[VM].vm], [[VM], "paused", VM]);
});

test("a link to an unknown VM locks every power button, until another is chosen", () => {
	const strayed = stateAfter(["vm-unknown", { name: "nosuch" }]);
	assert.match(obstacle(strayed, viewOf(strayed), "reset"), /no VM nosuch/);
	const chosen = reduce(strayed, { type: "vm-chosen", at: NOW, name: VM });
	assert.equal(obstacle(chosen, viewOf(chosen), "reset"), "");
});

test("a lock is timed from its beginning, and ends with its reason", () => {
	const away = [["health-lost", { next: 0 }, 30], ["health-lost", { next: 0 }, 28], ["tick", {}, 1]];
	assert.equal(viewAfter(...away).lockedSince, NOW - 28_000);
	assert.equal(viewAfter(...away, ["health-came", { answer: HEALTH, next: 0 }]).lockedSince, Infinity);
	assert.equal(viewAfter(begun("cycle", 70), ["tick"]).lockedSince, Infinity); // what runs is no lock that a person could know better of
});

test("an answer may say names that JavaScript has", () => {
	const view = viewAfter(settledEvent("status", { state: "constructor", verdict: verdictOf("__proto__") }));
	assert.equal(adviceOf(view), "");
	assert.deepEqual([view.seen.state, view.verdict.code], ["constructor", "__proto__"]);
});

test("a VM may have the name of what every object has", () => {
	const { [VM]: view } = stateAfter().views;
	assert.equal(reduce(newState(), { type: "nudged", vm: "constructor", at: 0, words: "x" }).views.constructor, Object);
	assert.ok(view);
});

// --- keys, tabs, clocks ---

for (const [what, events, expected] of [
	["a key that nothing proved", [["unlocked", {}]], "refused"],
	["a key that this page proved", [["unlocked", {}], ["key-proved"]], "revoked"],
	["a kept key that was proved earlier", [["unlocked", { good: true }]], "revoked"],
	["another key than the one that was proved", [["unlocked", {}], ["key-proved"], ["locked", {}], ["unlocked", {}]], "refused"],
]) {
	test(`what a refusal says of ${what}`, () => {
		assert.equal(stateAfter(...events, ["locked", { refused: true }]).key, expected);
		assert.equal(stateAfter(...events, ["locked", {}]).key, "none");
	});
}

test("a page that is locked shows where its key goes, whatever it showed", () => {
	assert.equal(stateAfter(["tab-chosen", { tab: "chat" }], ["locked", { refused: true }]).tab, "vm");
});

test("what another tab of this device has sent is no other caller's, and changes nothing once it is known", () => {
	const heard = ["sent-heard", { ids: ["job_7"] }];
	const seen = [statusCame("running", "qemu-running", 9, { last: "job_0" }), heard, statusCame("running", "qemu-running", 0, { last: "job_7" })];
	assert.equal(viewAfter(...seen).note, "");
	const before = stateAfter(begun("cycle"), heard);
	assert.equal(reduce(before, { type: "sent-heard", at: NOW, ids: ["job_7", "id_1"] }).views[VM], before.views[VM]);
	assert.deepEqual(viewOf(before).sent, { id_1: true, job_7: false });
});

test("times are the host's, on this device's clock", () => {
	const ahead = ["clock-measured", { off: -600_000 }];
	const started = "2026-11-27T03:02:35Z"; // 5 s ago by the host's clock
	for (const event of [["picture-came", { picture: { png: "", started } }], ["screen-came", { picture: { png: "", started }, guest: null, state: "running" }]]) {
		assert.equal(viewAfter(ahead, event).picture.at, NOW - 5_000, event[0]);
	}
	assert.equal(viewAfter(ahead, begun("cycle"), stage("stop", 0, 0, { started, deadline: 60 })).deadline.started, NOW - 5_000);
});
