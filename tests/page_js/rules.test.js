// What may be pressed, what an answer means, and why.

import assert from "node:assert/strict";
import { test } from "node:test";
import { adviceOf, isCheckDue, mayAnyway, notesOf, obstacle, otherName, outcomeOf, pointless, proxmoxTrouble, recentEvidence } from "../../static_site/state/rules.js";
import { headlineOf } from "../../static_site/vm/headline.js";
import { POWER } from "../../static_site/state/verbs.js";
import { HEALTH, OPENED, NOW, VM, after, answerOf, begun, evidenceCame, settledEvent, statusCame, verdictOf, viewOf } from "./samples.js";

const HOLDER = { job: "job_9", verb: "cycle", by: "operator2", since: "2026-11-27T03:12:00Z", stage: "stop", deadline: 420 };
const AWAY = [["health-lost", { next: 0 }, 70], ["health-lost", { next: 0 }, 68]];
const OPEN = [begun("stop", 9), ["act-open", { answer: {}, acting: false }, 5]];
const BUSY = [begun("reset", 3), settledEvent("reset", { outcome: "busy", holder: HOLDER }, 1)];
const proxmox = (code) => ["health-came", { answer: { ...HEALTH, vms: [{ ...HEALTH.vms[0], proxmox: code }] }, next: 0 }];

// Why each button can't be pressed after these events; nothing where it can.
function obstaclesAfter(...events) {
	const state = after(...OPENED, ...events);
	return Object.fromEntries([...POWER, "status", "forensics"].map((verb) => [verb, obstacle(state, viewOf(state), verb)]));
}
const WAITING = {
	"nothing": [[], {}],
	"a status under way": [[["read-begun", { verb: "status", loud: true }]], { power: /^Wait for the answer/, status: /^Wait/, forensics: /^Wait/ }],
	"a verb that was not sent": [[begun("reset", 5), settledEvent("reset", { outcome: "error", code: "forbidden", reached: false, state: null })], {}],
	"a look by itself": [[["read-begun", { verb: "forensics", loud: false }]], {}],
	"a verb under way": [[begun("cycle")], { power: /^Power-cycle is under way/, status: /under way/, forensics: /under way/ }],
	"an open outcome": [OPEN, { power: /^It is not known whether the stop happened/ }],
	"an open outcome and a read": [[...OPEN, ["read-begun", { verb: "status", loud: false }]], { power: /^It is not known/, status: /^Wait/, forensics: /^Wait/ }],
	"another caller's job": [[statusCame("running", "qemu-running", 0, { holder: HOLDER })], { power: /^operator2 has been power-cycling it since 03:12:00; the job ends by 03:19:00 \(stage: stop\)\.$/ }],
	"a busy answer": [BUSY, { power: /^operator2 has been power-cycling it since 03:12:00/ }],
	"nothing that answers": [AWAY, { power: /^Breakglass is not answering/, forensics: /not answering/ }],
	"a host that refuses": [[proxmox("connection-refused")], { power: /^Proxmox is out of reach: connection refused/, forensics: /out of reach/ }],
	"a link to no VM": [[["vm-unknown", { name: "x" }]], { power: /^There is no VM x/, status: /no VM/, forensics: /no VM/ }],
	"no key": [[["locked", {}], ["views-opened", { kept: { [VM]: {} } }]], { power: /^Enter the signing key/, status: /signing key/, forensics: /signing key/ }],
};
for (const [what, [events, expected]] of Object.entries(WAITING)) {
	test(`with ${what}, each button says why it waits`, () => {
		for (const [verb, why] of Object.entries(obstaclesAfter(...events))) {
			const wanted = expected[POWER.includes(verb) ? "power" : verb];
			if (wanted) assert.match(why, wanted, verb);
			else assert.equal(why, "", verb);
		}
	});
}

test("a lock is a hint, and ends after a minute", () => {
	const locked = (ago) => viewOf(after(...OPENED, [...AWAY[0].slice(0, 2), ago + 1], [...AWAY[1].slice(0, 2), ago]));
	assert.equal(mayAnyway(locked(59), NOW), false);
	assert.equal(mayAnyway(locked(60), NOW), true);
	assert.equal(mayAnyway(viewOf(after(...OPENED, begun("cycle", 600))), NOW), false);
});

test("what makes no sense is said, and is no obstacle", () => {
	const odd = (state) => POWER.filter((verb) => pointless({ seen: { state } }, verb));
	assert.deepEqual([odd("running"), odd("stopped"), odd("paused"), odd("unknown")], [["start"], ["reset", "stop"], [], []]);
	assert.equal(pointless({ seen: { state: "stopped" } }, "reset"), "It is off");
	assert.equal(pointless({ seen: null }, "reset"), "");
});

test("an advice holds while it is about what is there", () => {
	const advice = (...events) => adviceOf(viewOf(after(...OPENED, evidenceCame("running", "disk-frozen", 9, { verdict: verdictOf("disk-frozen", { advice: "cycle" }) }), ...events)));
	assert.equal(advice(), "cycle");
	assert.equal(advice(statusCame("running", "qemu-running")), "cycle");
	assert.equal(advice(statusCame("running", "qemu-running", 0, { last: "job_7" })), "");
	assert.equal(advice(["screen-came", { picture: null, guest: null, state: "paused" }]), "");
	assert.equal(advice(statusCame("running", "qemu-running", 0, { holder: HOLDER })), "");
	assert.equal(advice(...BUSY), "");
	assert.equal(advice(...OPEN), "");
	assert.equal(advice(evidenceCame("running", "disk-frozen", 0, { verdict: verdictOf("disk-frozen", { advice: "exorcise" }) })), "");
});

test("a check is due every 15 s, also while an outcome is open, and never beside what is under way", () => {
	const due = (...events) => {
		const state = after(...OPENED, ["read-begun", { verb: "status", loud: false }, 15], ["read-dropped", {}, 15], ...events);
		return isCheckDue(state, viewOf(state), NOW);
	};
	assert.equal(due(), true);
	assert.equal(due(["read-begun", { verb: "status", loud: false }, 14], ["read-dropped"]), false);
	assert.equal(due(...OPEN), true);
	assert.equal(due(["read-begun", { verb: "status", loud: false }, -259_200], ["read-dropped"]), true); // by a clock that was put right since
	assert.equal(due(begun("cycle")), false);
	assert.equal(due(["read-begun", { verb: "forensics", loud: false }, 30]), false);
	assert.equal(due(...AWAY), false);
	assert.equal(due(["locked", {}], ["views-opened", { kept: { [VM]: {} } }]), false);
});

test("a host is out of reach by what /health says, until a newer answer came from it", () => {
	const trouble = (code, ...events) => {
		const state = after(...OPENED, proxmox(code), ...events);
		return proxmoxTrouble(state, viewOf(state));
	};
	for (const code of ["answering", "agent-outdated", "not-checked"]) assert.equal(trouble(code), "");
	assert.equal(trouble("timeout"), "timeout");
	assert.equal(trouble("timeout", settledEvent("status", {}, -1)), "");
	const lost = ["health-lost", { next: 0 }];
	assert.equal(trouble("timeout", lost), "timeout"); // one poll is lost on any bad line
	assert.equal(trouble("timeout", lost, lost), ""); // an old cause, from a handler that no longer answers
});

// --- what an answer means ---

const WHEN = { at: NOW, clockOff: 0 };
const phaseOf = (verb, more) => outcomeOf(verb, answerOf(more), WHEN)[0];

test("only `reached: false` says that nothing was sent", () => {
	for (const outcome of ["unreached", "rejected", "error", "busy", "refused", "failed", "lost"]) {
		assert.equal(phaseOf("reset", { outcome, reached: false }), "notSent", outcome);
		assert.notEqual(phaseOf("reset", { outcome, reached: true }), "notSent", outcome);
		assert.notEqual(phaseOf("reset", { outcome, reached: undefined }), "notSent", outcome);
	}
});

test("only `done` is done", () => {
	for (const outcome of ["busy", "refused", "failed", "error", "id-reused", "a newer one"]) {
		assert.ok(["busy", "refused", "failed"].includes(phaseOf("reset", { outcome })), outcome);
	}
	assert.equal(phaseOf("reset", {}), "done");
	assert.equal(phaseOf("status", {}), "idle");
});

test("a look that failed has how far it got, the advice, the evidence and the commands by hand; a verb's headline has them", () => {
	const failed = answerOf({ outcome: "failed", stage: "preflight", verdict: verdictOf("agent-failed", { advice: "status" }), by_hand: ["qm status 102"] });
	assert.deepEqual(outcomeOf("forensics", failed, WHEN), ["failed", {
		sentence: "The sentence of agent-failed.", hint: "The verb reached the stage preflight.", lines: ["the evidence of agent-failed", "By hand: qm status 102"],
	}]);
	assert.deepEqual(outcomeOf("cycle", failed, WHEN), ["failed", { sentence: "The sentence of agent-failed." }]);
});

test("what was not sent says why, once, and what to do", () => {
	const [, more] = outcomeOf("reset", answerOf({ outcome: "unreached", reached: false, message: "the host refused the connection; nothing was sent", hint: "Look at sshd.", url: "https://other/" }), WHEN);
	assert.deepEqual(more, { sentence: "the host refused the connection.", hint: "Look at sshd.", url: "https://other/" });
});

test("what a configuration lacks is a task of another person", () => {
	const [, { hint }] = outcomeOf("reset", { outcome: "error", code: "forbidden", reached: false, message: 'viewer may not "reset"', hint: "add it to callers.viewer.allow" }, WHEN);
	assert.equal(hint, "The person who runs Breakglass can add it to callers.viewer.allow.");
});

test("that nothing was changed is said once", () => {
	for (const sentence of ["the storage of this VM does not answer; nothing was changed", "the storage of this VM does not answer, nothing was changed"]) {
		const [, more] = outcomeOf("reset", answerOf({ outcome: "refused", verdict: verdictOf("storage-hung", { sentence }) }), WHEN);
		assert.equal(more.sentence, "the storage of this VM does not answer.");
	}
});

test("a look that got no answer is no riddle", () => {
	const [phase, more] = outcomeOf("status", answerOf({ outcome: "unknown", reached: undefined, message: "status may have run", hint: "send the same id again" }), WHEN);
	assert.deepEqual([phase, more], ["failed", { sentence: "No answer came back from the host.", hint: "Nothing was changed. Look again." }]);
});

test("a refusal without any reason says that", () => {
	const [, more] = outcomeOf("reset", answerOf({ outcome: "refused" }), WHEN);
	assert.equal(more.sentence, "no reason was given.");
});

test("the notes say only what is not well", () => {
	const notes = (...events) => {
		const state = after(...OPENED, statusCame("running", "qemu-running", 9), ...events);
		return notesOf(state, viewOf(state));
	};
	assert.deepEqual(notes(), []);
	assert.match(notes(["clock-measured", { off: 90_000 }])[0], /clock is 90 s behind\. The times here are those of the host\./);
	assert.deepEqual(notes(["clock-measured", { off: 59_000 }]), []);
	assert.match(notes(["health-came", { answer: { ...HEALTH, config: "old since 2026-11-27T03:00:00Z" }, next: 0 }])[0], /^The configuration of Breakglass is old since 03:00:00\./);
	assert.match(notes(statusCame("running", "qemu-running", 0, { last: "job_7" }))[0], /^Another caller changed its power/);
	assert.deepEqual(notes(statusCame("running", "qemu-running", 0, { warnings: ["claude logs in to it as root"] })), ["claude logs in to it as root"]);
});

test("a note has the newest opinion, until a verb comes or half a day has passed", () => {
	const { clockOff, ...state } = after(...OPENED);
	const told = { id: "alert-1", verb: "forensics", started: new Date(NOW).toISOString(), opinion: { at: new Date(NOW).toISOString(), text: `reset, because ${"x".repeat(999)}` } };
	const notes = (jobs, now = NOW) => notesOf({ ...state, clockOff }, { ...viewOf(state), jobs }, now);
	const [note] = notes([{ id: "job_1", verb: "forensics", started: told.started }, told]);
	assert.match(note, /^Claude, \d\d:\d\d: reset, because x+$/);
	assert.equal(note.length, "Claude, 00:00: ".length + 300);
	assert.deepEqual(notes([{ id: "job_2", verb: "reset", started: told.started }, told]), []);
	assert.deepEqual(notes([told], NOW + 12 * 3600_000), []);
});

// --- evidence of the history, which the page takes for its own ---

const captured = (code, ago, more = {}) => ({ id: "job_9", verb: "forensics", by: "twin", started: new Date(NOW - 1e3 * ago).toISOString(), seconds: 3, outcome: "done", verdict: verdictOf(code), ...more });
const evidenceOf = (state, statusCode, ...jobs) => recentEvidence(viewOf(after(...OPENED, statusCame(state, statusCode), ["jobs-came", { jobs, trouble: "" }])), NOW)?.id;

test("evidence of the last minute is taken for what a status has just seen", () => {
	for (const code of ["healthy", "guest-hung", "disk-frozen"]) assert.equal(evidenceOf("running", "qemu-running", captured(code, 40)), "job_9");
	assert.equal(evidenceOf("stopped", "qemu-stopped", captured("qemu-stopped", 40)), "job_9");
	assert.equal(evidenceOf("wedged", "qemu-wedged", captured("qemu-wedged", 40)), "job_9");
});

test("evidence of another state is never shown for what is there now", () => {
	assert.equal(evidenceOf("io-error", "qemu-io-error", captured("healthy", 40)), undefined);
	assert.equal(evidenceOf("stopped", "qemu-stopped", captured("healthy", 40)), undefined);
	assert.equal(evidenceOf("running", "qemu-running", captured("qemu-stopped", 40)), undefined);
	assert.equal(evidenceOf("running", "qemu-running", captured("qemu-io-error", 40)), undefined);
});

test("evidence is old after a minute, by a clock that was set, and once a power job has ended", () => {
	assert.equal(evidenceOf("running", "qemu-running", captured("healthy", 61)), undefined);
	assert.equal(evidenceOf("running", "qemu-running", captured("healthy", -61)), undefined);
	const cycle = { ...captured("", 50), id: "job_8", verb: "cycle", verdict: null };
	assert.equal(evidenceOf("running", "qemu-running", captured("healthy", 40), { ...cycle, seconds: 20 }), undefined);
	assert.equal(evidenceOf("running", "qemu-running", captured("healthy", 40), { ...cycle, seconds: 5 }), "job_9");
	assert.equal(evidenceOf("running", "qemu-running", captured("healthy", 40, { outcome: null }), captured("healthy", 45)), undefined);
});

test("evidence of the history is as old as it is", () => {
	const state = after(...OPENED, statusCame("running", "qemu-running"), ["evidence-came", { verdict: verdictOf("healthy"), taken: NOW - 50_000 }]);
	assert.equal(headlineOf(state, viewOf(state), NOW).tone, "good");
	assert.match(headlineOf(state, viewOf(state), NOW).second, /looked 0 s ago/);
	const later = after(...OPENED, statusCame("running", "qemu-running"), ["evidence-came", { verdict: verdictOf("healthy"), taken: NOW - 121_000 }]);
	assert.equal(headlineOf(later, viewOf(later), NOW).tone, "unknown");
});

test("a clock that was set back makes no verdict younger", () => {
	const state = after(...OPENED, evidenceCame("running", "healthy", -3_600), statusCame("running", "qemu-running"));
	assert.equal(headlineOf(state, viewOf(state), NOW).tone, "unknown");
});

test("a link to a VM that is not here locks the buttons for good: no other VM is acted on in its place", () => {
	const state = after(...OPENED, statusCame("running", "qemu-running", 90), ["vm-unknown", { name: "gone" }, 90], ["tick", {}, 89], ["tick"]);
	assert.equal(mayAnyway(viewOf(state), NOW), false);
	assert.match(obstacle(state, viewOf(state), "cycle"), /no VM gone/);
});

test("the name on Proxmox is shown only if it is another one, and is kept while the host does not tell it", () => {
	const named = (...names) => otherName(viewOf(after(...OPENED, ...names.map((name) => statusCame("running", "qemu-running", 0, { proxmox_name: name })))));
	assert.deepEqual([named(VM), named("customer-db"), named("customer-db", null), named("customer-db", ""), named(undefined)], ["", "customer-db", "customer-db", "", ""]);
});
