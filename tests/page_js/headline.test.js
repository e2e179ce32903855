// The headline: at most four words, and never green while something else is known.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { adviceOf } from "../../static_site/state/rules.js";
import { VERBS } from "../../static_site/state/verbs.js";
import { barOf } from "../../static_site/vm/bar.js";
import { headlineOf } from "../../static_site/vm/headline.js";
import { OPENED, NOW, RUN_STATES, TONES, VERDICT_CODES, after, begun, evidenceCame, pictureCame, settledEvent, stage, statusCame, verdictOf, viewOf } from "./samples.js";

const PAGE = readFileSync(new URL("../../static_site/index.html", import.meta.url), "utf8");
const ICONS = new Set([...PAGE.matchAll(/<symbol id="i-([a-z]+)"/g)].map((found) => found[1]));

const headAfter = (...events) => {
	const state = after(...OPENED, ...events);
	return headlineOf(state, viewOf(state), NOW);
};
const wordCount = (words) => words.split(/\s+/).length;

function checkShape(head, what) {
	assert.ok(head.words && wordCount(head.words) <= 4, `${what}: ${head.words}`);
	assert.ok(TONES.includes(head.tone), `${what}: ${head.tone}`);
	assert.ok(ICONS.has(head.icon), `${what}: ${head.icon}`);
	assert.doesNotMatch(`${head.words} ${head.second} ${head.why}`, /undefined|NaN|null|\[object|Invalid/, what);
}

// What each verdict asks of a person, the tone of a fresh one.
const TONE_OF = {
	good: ["healthy"],
	unknown: ["qemu-running", "guest-silent", "guest-alive", "not-determined", "place-unknown"],
	warn: ["qemu-paused", "paused-locked", "in-transit", "qemu-shutdown", "qemu-suspended", "qemu-debug", "qemu-stopped", "stopped-locked", "other-node", "container"],
	bad: [
		"guest-hung", "heartbeat-lost", "guest-starved", "guest-frozen", "backup-starves", "disk-frozen", "storage-hung", "qemu-wedged", "qemu-io-error", "qemu-internal-error", "qemu-guest-panicked", "qemu-watchdog", "ha-stuck",
		"leftover", "pmxcfs-hung", "pmxcfs-not-mounted", "pmxcfs-dead", "no-quorum", "no-config", "stale-copy", "wrong-vm",
	],
};

test("every verdict has a tone here", () => {
	assert.deepEqual(Object.values(TONE_OF).flat().sort(), VERDICT_CODES.toSorted());
});

for (const [tone, codes] of Object.entries(TONE_OF)) {
	for (const code of codes) {
		test(`${code} is ${tone}, in at most four words`, () => {
			const head = headAfter(evidenceCame("running", code));
			checkShape(head, code);
			assert.equal(head.tone, tone);
		});
	}
}

test("each verdict has its own words", () => {
	const words = VERDICT_CODES.map((code) => headAfter(evidenceCame("running", code)).words);
	assert.equal(new Set(words).size, words.length);
});

test("a state alone is never green, and has at most four words", () => {
	for (const runState of RUN_STATES) {
		const head = headAfter(settledEvent("status", { state: runState }));
		checkShape(head, runState);
		assert.notEqual(head.tone, "good", runState);
		assert.match(head.second, /^QEMU: .+ · looked 0 s ago$/);
	}
});

test("a code that this page does not know warns, in its own words", () => {
	const head = headAfter(evidenceCame("running", "disk-on-fire"));
	assert.deepEqual([head.words, head.tone, head.why], ["Disk on fire", "warn", "The sentence of disk-on-fire."]);
	for (const code of ["constructor", "__proto__", "toString"]) checkShape(headAfter(evidenceCame("running", code)), code);
});

// What the host says in each of its variants, recorded by tests/unit/test_why.py.
const VERDICTS = JSON.parse(readFileSync(new URL("verdicts.json", import.meta.url), "utf8"));

test("the page says what the host says, in each variant of each verdict", () => {
	assert.deepEqual(new Set(VERDICTS.map(({ code }) => code)), new Set(VERDICT_CODES.filter((code) => !["container", "wrong-vm"].includes(code))));
	for (const { state, ...verdict } of VERDICTS) {
		const host = verdict.why || verdict.sentence;
		const fix = verdict.fix && { code: verdict.fix.code, place: "pve1", command: `the command of ${verdict.fix.code}` };
		for (const came of [evidenceCame, statusCame]) {
			const state_ = after(...OPENED, came(state, verdict.code, 0, { verdict: { ...verdict, fix } }));
			const head = headlineOf(state_, viewOf(state_), NOW);
			assert.equal(head.why, `${host[0].toUpperCase()}${host.slice(1)}${/[.…]$/.test(host) ? "" : "."}`);
			assert.deepEqual(head.cures, fix ? [fix] : [], host);
			assert.equal(adviceOf(viewOf(state_)), fix || !VERBS[verdict.advice] ? "" : verdict.advice, host);
		}
	}
});

test("an idle guest is no alarm, and a command that loses nothing comes before a power-cycle", () => {
	const said = (words) => VERDICTS.find(({ why }) => why.includes(words));
	assert.equal(said("kill -CONT").fix.pid, 4242);
	for (const { why } of VERDICTS) assert.doesNotMatch(why, /only a power-cycle/i);
	for (const words of ["only an idle guest answers", "look again in a minute", "so it lives"]) {
		for (const { code, why, sentence: words_ } of VERDICTS.filter(({ why, sentence }) => `${why} ${sentence}`.includes(words))) {
			assert.ok(code === "guest-frozen" || headAfter(evidenceCame("running", code)).tone !== "warn", why || words_);
		}
	}
});

// --- never green while something else is known ---

const REACH = {
	answering: [],
	"one lost /health": [["health-lost", { next: NOW + 2_000 }, 2]],
	away: [["health-lost", { next: NOW + 2_000 }, 9], ["health-lost", { next: NOW + 4_000 }, 5]],
	"host refuses": [["health-came", { answer: { vms: [{ name: "devvm", vmid: 102, proxmox: "connection-refused", since: "2026-11-27T03:11:00Z" }] }, next: NOW }]],
	"host key differs": [["health-came", { answer: { vms: [{ name: "devvm", vmid: 102, proxmox: "host-key-differs", since: null }] }, next: NOW }]],
	"configuration has a fault": [["health-came", { answer: { vms: [{ name: "devvm", vmid: 102, proxmox: "disabled", since: null }] }, next: NOW }]],
	"the last check failed": [settledEvent("status", { outcome: "unreached", reached: false, state: null, last: null, verdict: verdictOf("timeout") }, 0, { loud: false })],
	locked: [["locked", {}]],
	"a link to another VM": [["vm-unknown", { name: "nosuch" }]],
};
const HOLDER = { job: "job_9", verb: "cycle", by: "operator2", since: "2026-11-27T03:12:00Z", deadline: 420 };
const ACTS = {
	nothing: [],
	"a verb that runs": [begun("cycle", 1)],
	"an open outcome": [begun("cycle", 1), ["act-open", { answer: { message: "no answer" }, acting: false }]],
	"an outcome from before a reload": [["act-recalled", { id: "id_1", verb: "reset" }]],
	"another caller's job": [settledEvent("status", { holder: HOLDER }, 0, { loud: false })],
	"another caller's start since": [settledEvent("status", { last: "job_7" }, 0, { loud: false })],
	"a failed look": [settledEvent("forensics", { outcome: "failed", verdict: verdictOf("agent-failed") })],
	"a failed start": [begun("start", 1), settledEvent("start", { outcome: "failed", state: "stopped", last: "id_1", verdict: verdictOf("verb-failed") })],
	"a stop that is done": [begun("stop", 1), settledEvent("stop", { state: "stopped", last: "id_1" })],
	"a stop refused": [begun("stop", 1), settledEvent("stop", { outcome: "refused", verdict: verdictOf("locked") })],
	"a read": [["read-begun", { verb: "status", loud: false }]],
	"a console that shows it off": [["screen-came", { picture: null, guest: null, state: "stopped" }]],
};
// Beside these, green may stay: nothing that is known speaks against it.
const HARMLESS = new Set(["answering", "one lost /health", "nothing", "a stop refused", "a read"]);

// How many seconds ago the verdict and the last look were. A verdict that is never green needs no age between them.
const AGES = [[0, 0], [121, 10], [59, 59], [119, 10], [300, 10], [61, 61], [9_999, 9_999]];

test("green is shown for a fresh healthy verdict, and for nothing else", () => {
	let green = 0;
	for (const code of VERDICT_CODES) {
		for (const [verdictAge, seenAge] of code === "healthy" ? AGES : AGES.slice(0, 2)) {
			for (const [reach, reached] of Object.entries(REACH)) {
				for (const [act, acted] of Object.entries(ACTS)) {
					const look = settledEvent("status", {}, seenAge, { loud: false });
					const events = [evidenceCame("running", code, verdictAge), ...(seenAge < verdictAge ? [look] : []), ...acted, ...reached];
					const state = after(...OPENED, ...events);
					if (!viewOf(state)) continue; // a lock forgets
					const head = headlineOf(state, viewOf(state), NOW);
					const what = [code, verdictAge, seenAge, reach, act].join(", ");
					checkShape(head, what);
					const isSeen = seenAge <= 60 || act === "a stop refused"; // a refusal says what the host saw
					const isFresh = code === "healthy" && verdictAge <= 120 && isSeen;
					const isWell = isFresh && HARMLESS.has(reach) && HARMLESS.has(act);
					assert.equal(head.tone === "good", isWell, `${what}: ${head.words}`);
					green += Number(isWell);
				}
			}
		}
	}
	assert.equal(green, 3 * 2 * 3 + 2);
});

test("a good verdict that has grown old says its age", () => {
	const head = headAfter(evidenceCame("running", "healthy", 180), settledEvent("status", {}, 10, { loud: false }));
	assert.deepEqual([head.words, head.tone], ["Well 3 min ago", "unknown"]);
});

test("after a minute without a look, whatever was seen is out of date", () => {
	const head = headAfter(evidenceCame("running", "disk-frozen", 61));
	assert.deepEqual([head.words, head.tone, head.second], ["Out of date", "unknown", "Was: Hung: disk frozen, 61 s ago"]);
});

// --- what is under way, and what is out of reach ---

test("a verb under way is the headline, over every verdict", () => {
	for (const [verb, words] of [["cycle", "Power-cycling…"], ["reset", "Resetting…"], ["start", "Starting…"], ["stop", "Stopping…"]]) {
		for (const code of VERDICT_CODES) {
			const head = headAfter(evidenceCame("running", code, 2), begun(verb));
			assert.deepEqual([head.words, head.tone, head.live], [words, "busy", true]);
		}
	}
});

test("an outcome that is not known is never anything else, also where nothing answers", () => {
	for (const reached of Object.values(REACH).slice(0, 6)) {
		const head = headAfter(evidenceCame("running", "healthy"), ...ACTS["an open outcome"], ...reached);
		assert.deepEqual([head.words, head.tone, head.second], ["Outcome not known", "unknown", "The power-cycle may have happened"]);
	}
});

test("another caller's job says whose it is and for how long", () => {
	const head = headAfter(...ACTS["another caller's job"]);
	assert.deepEqual([head.words, head.tone, head.second], ["Power-cycling…", "busy", "By operator2 for 40 s"]);
});

test("a host that is out of reach: why, since when, and what to do", () => {
	const refused = headAfter(evidenceCame("running", "healthy", 5), ...REACH["host refuses"]);
	assert.deepEqual([refused.words, refused.second], ["Host unreachable", "Since 03:11 · was running"]);
	assert.match(refused.why, /onnection refused.*IPMI/);
	const differs = headAfter(...REACH["host key differs"]);
	assert.equal(differs.words, "Host key changed");
	assert.match(differs.why, /nothing was sent.*Find out before you trust the new key/);
	assert.doesNotMatch(differs.why, /IPMI/);
	const fault = headAfter(...REACH["configuration has a fault"]);
	assert.equal(fault.words, "Set up wrongly");
	assert.doesNotMatch(fault.why, /IPMI/);
});

test("a start that failed and left it off says so", () => {
	for (const [verb, words] of [["cycle", "Off: start failed"], ["start", "Off: start failed"], ["reset", "Off: reset failed"], ["stop", "Off: stop failed"]]) {
		const failed = settledEvent(verb, { outcome: "failed", state: "stopped", last: "id_1", verdict: verdictOf("verb-failed") });
		const head = headAfter(evidenceCame("running", "disk-frozen", 9), begun(verb, 5), failed);
		assert.deepEqual([head.words, head.tone], [words, "bad"]);
		assert.equal(head.why, "The sentence of verb-failed.");
	}
});

test("the cause of a failure comes first, with what may help, until something else is done", () => {
	const verdict = verdictOf("stranded", { sentence: "the VM was stopped and could not be started: qm start failed: could not open disk image /dev/pve/vm-102-disk-0; fix that, then start", advice: "start" });
	const failed = [begun("cycle", 50), settledEvent("cycle", { outcome: "failed", state: "stopped", last: "id_1", verdict, by_hand: ["ssh root@pve1 qm start 102"] }, 40)];
	const looks = [statusCame("stopped", "qemu-stopped", 30, { last: "id_1" }), evidenceCame("stopped", "qemu-stopped", 20, { last: "id_1", verdict: verdictOf("qemu-stopped", { advice: "start" }) }), ["read-begun", { verb: "status", loud: true }, 10], statusCame("stopped", "qemu-stopped", 9, { last: "id_1" })];
	for (const count of looks.keys()) {
		const state = after(...OPENED, evidenceCame("running", "disk-frozen", 60), ...failed, ...looks.slice(0, count + 1));
		const head = headlineOf(state, viewOf(state), NOW);
		assert.deepEqual([head.words, head.why], ["Off: start failed", "Could not open disk image /dev/pve/vm-102-disk-0; fix that, then start."]);
		assert.deepEqual(head.cures, [{ place: "", command: "ssh root@pve1 qm start 102" }]);
		assert.equal(adviceOf(viewOf(state)), "");
	}
	assert.equal(headAfter(...failed, ...looks, statusCame("stopped", "qemu-stopped", 5, { last: "job_9" })).words, "Off");
	const job = { id: "id_1", verb: "cycle", by: "operator", outcome: "failed", verdict };
	const reloaded = (seconds) => after(...OPENED, ["jobs-came", { jobs: [{ ...job, started: new Date(NOW - 1e3 * seconds).toISOString() }], trouble: "" }, 9], settledEvent("status", { state: "stopped", last: "id_1", verdict: verdictOf("qemu-stopped", { advice: "start" }) }, 5));
	assert.deepEqual([headlineOf(reloaded(50), viewOf(reloaded(50)), NOW).words, adviceOf(viewOf(reloaded(50)))], ["Off: start failed", ""]);
	assert.deepEqual([headlineOf(reloaded(3_700), viewOf(reloaded(3_700)), NOW).words, adviceOf(viewOf(reloaded(3_700)))], ["Off", "start"]);
});

test("a verb that failed on a VM that runs is the headline, until evidence says more", () => {
	const failed = settledEvent("cycle", { outcome: "failed", last: "id_1", verdict: verdictOf("verb-failed") });
	const head = headAfter(evidenceCame("running", "disk-frozen", 9), begun("cycle", 5), failed);
	assert.deepEqual([head.words, head.tone, head.why], ["Power-cycle failed", "bad", "The sentence of verb-failed."]);
	const look = settledEvent("forensics", { last: "id_1", verdict: verdictOf("disk-frozen") }, 0, { loud: false });
	assert.equal(headAfter(evidenceCame("running", "disk-frozen", 9), begun("cycle", 5), failed, look).words, "Hung: disk frozen");
});

test("after a stop that is done, nothing of the verdict before it is said", () => {
	const head = headAfter(evidenceCame("running", "qemu-running", 9), ...ACTS["a stop that is done"]);
	assert.deepEqual([head.words, head.tone, head.second], ["Off", "warn", "QEMU: not running · looked 0 s ago"]);
});

// --- the watch after a start ---

const started = (ago) => [
	evidenceCame("running", "disk-frozen", ago + 20), begun("cycle", ago + 9),
	settledEvent("cycle", { last: "id_1", seconds: 8.4 }, ago), ["watch-begun", { seconds: 90 }, ago],
];
const look = (more = {}) => settledEvent("status", { last: "id_1", verdict: verdictOf("qemu-running"), ...more }, 0, { loud: false });
const GUEST = { picture: null, guest: "answers", state: "running" };

test("while its guest comes back, and once it is", () => {
	const coming = headAfter(...started(10), look());
	assert.deepEqual([coming.words, coming.tone, coming.live], ["Coming back…", "busy", true]);
	const back = headAfter(...started(20), ["screen-came", GUEST, 4]);
	assert.deepEqual([back.words, back.tone, back.second], ["Back: guest answers", "good", "03:12:36, 16 s after its power-cycle"]);
});

const beat = (ago) => ({ state: "fresh", at: new Date(NOW - 1e3 * ago).toISOString(), says: "the guest's kernel answered 1 s ago" });

test("a guest is back with its first heartbeat after the start, by the host's clock", () => {
	const begins = [begun("cycle", 60), settledEvent("cycle", { last: "id_1", started: new Date(NOW - 55_000).toISOString() }, 40), ["watch-begun", { seconds: 90 }, 40]];
	const check = (ago, heartbeat) => settledEvent("status", { last: "id_1", verdict: verdictOf("qemu-running"), heartbeat }, ago, { loud: false });
	const waits = check(17, { state: "awaited", at: null, says: "" });
	assert.equal(headAfter(...begins, waits).words, "Coming back…");
	assert.equal(headAfter(...begins, check(17, beat(70))).words, "Coming back…"); // an answer from before
	const back = headAfter(...begins, waits, check(12, beat(14)));
	assert.equal(headAfter(...begins, waits, check(12, { ...beat(14), state: "late" })).words, "Coming back…"); // it answered, and hangs
	assert.deepEqual([back.words, back.tone, back.why], ["Back: kernel answers", "good", "The guest’s kernel answers, 41 s after the power-cycle. Try what you came for."]);
	assert.match(headAfter(...begins, check(12, beat(14))).why, /at most 41 s after/); // this device slept
	const unreached = settledEvent("status", { outcome: "unreached", reached: false, state: "unknown", last: null }, 14, { loud: false });
	assert.match(headAfter(...begins, unreached, check(12, beat(14))).why, /at most 41 s after/);
	const late = headAfter(...begins, waits, ["watch-ended", { found: "nothing" }, 14], check(12, beat(14)));
	assert.equal(late.words, back.words);
	assert.equal(headAfter(...begins, waits, check(12, beat(14)), ["watch-begun", { seconds: 5 }, 11], ["watch-ended", { found: "nothing" }, 5], check(0, beat(1))).why, back.why);
});

test("a guest that does not come back warns, for as long as nothing newer is known", () => {
	for (const ago of [91, 600]) {
		const over = [...started(ago), ["watch-ended", { found: "nothing" }, ago - 90], look()];
		const silent = headAfter(statusCame("running", "qemu-running", 700, { heartbeat: beat(700) }), ...over);
		assert.deepEqual([silent.words, silent.tone], ["No sign of life", "warn"]);
		assert.match(silent.why, /after its power-cycle\. The guest may still boot\.$/);
		const pictured = headAfter(statusCame("running", "qemu-running", 700, { heartbeat: beat(700) }), ...over, pictureCame("id_1", 1));
		assert.match(pictured.why, /Look at the picture: the guest may still boot\.$/);
		assert.deepEqual([headAfter(...over).words, headAfter(...over).tone], ["Not examined", "unknown"]); // it never had a heartbeat
	}
});

test("a guest that stands again ends the watch, and what just failed is not advised again", () => {
	const [picture, words] = [pictureCame("id_1", 15), ["picture-came", { picture: null, words: { lines: ["oops"], at: NOW } }, 15]];
	for (const [was, fell, why, ...shown] of [
		["guest-panicked", "guest-panicked", "It panicked again, 4 s after the power-cycle. Find out why before another try.", pictureCame("job_0", 31)], // of the guest before the power-cycle
		["guest-panicked", "guest-panicked", "It panicked again, 4 s after the power-cycle. Look at the picture before another try.", picture],
		["guest-panicked", "guest-panicked", "It panicked again, 4 s after the power-cycle. Look at the last words before another try.", words],
		["running", "guest-panicked", "It panicked, 4 s after the power-cycle. Look at the picture and the last words before another try.", picture, words],
		["io-error", "io-error", "A disk request failed again, 4 s after the power-cycle. The sentence of qemu-io-error."],
	]) {
		const verdict = verdictOf(`qemu-${fell}`, { advice: "reset" });
		const events = [
			statusCame(was, "qemu-running", 40), begun("cycle", 30), settledEvent("cycle", { last: "id_1", seconds: 8.4 }, 20), ["watch-begun", { seconds: 90 }, 20],
			settledEvent("status", { state: fell, last: "id_1", verdict }, 16, { loud: false }), ...shown,
		];
		for (const more of [[], [evidenceCame(fell, verdict.code, 9, { last: "id_1", verdict })], [settledEvent("status", { state: fell, last: "id_1", verdict }, 1, { loud: false })]]) {
			const state = after(...OPENED, ...events, ...more);
			const head = headlineOf(state, viewOf(state), NOW);
			assert.deepEqual([head.why, head.tone, viewOf(state).watch.on, adviceOf(viewOf(state))], [why, "bad", false, ""]);
		}
		const bar = barOf(after(...OPENED, ...events), viewOf(after(...OPENED, ...events)), NOW);
		assert.deepEqual([bar.word, bar.sentence, bar.tone, bar.act], ["Power-cycle done", `But ${why[0].toLowerCase()}${why.slice(1).split(".")[0]}`, "bad", "look"]);
		assert.equal(headAfter(...events, look()).words, "Not examined"); // someone resumed it
	}
});

test("a guest that was back is not said to be for ever, nor against what is known since", () => {
	const back = (ago) => [...started(ago + 20), ["screen-came", GUEST, ago]];
	assert.equal(headAfter(...back(119), look()).tone, "good");
	for (const [what, events] of Object.entries({
		"two minutes later": [...back(121), look()],
		"evidence since": [...back(10), evidenceCame("running", "disk-frozen", 0, { last: "id_1" })],
		"paused since": [...back(10), look({ state: "io-error", verdict: verdictOf("qemu-io-error") })],
		"started by another": [...back(10), look({ last: "job_7" })],
		"not checked for a minute": back(61),
		"a check that failed": [...back(10), ...REACH["the last check failed"]],
		"nothing answers": [...back(10), ...REACH.away],
		"a look that failed": [...back(10), look(), settledEvent("forensics", { outcome: "failed", last: "id_1", verdict: verdictOf("agent-failed") })],
		"off again": [...back(10), ["screen-came", { picture: null, guest: null, state: "stopped" }]],
	})) {
		const head = headAfter(...events);
		checkShape(head, what);
		assert.notEqual(head.tone, "good", what);
		assert.doesNotMatch(head.words, /^Back/, what);
	}
});

// --- before anything is known ---

test("locked, opening, and without an answer", () => {
	const locked = (...events) => {
		const state = after(...OPENED.slice(0, 3), ...events);
		return headlineOf(state, viewOf(state), NOW).words;
	};
	assert.equal(locked(), "Opening…");
	assert.equal(locked(["key-missing"]), "Locked");
	assert.equal(locked(["key-missing"], ...REACH.away), "No connection");
	assert.equal(headAfter().words, "Not known");
	assert.equal(headAfter(["read-begun", { verb: "status", loud: true }]).words, "Looking…");
	assert.equal(headAfter(...REACH.away).words, "No connection");
	assert.equal(headAfter(...REACH["a link to another VM"]).words, "No such VM");
});

test("nothing is promised before the host's first line", () => {
	assert.equal(headAfter(begun("cycle", 20)).why, "Sending. Keep this page open.");
	assert.match(headAfter(begun("cycle", 20), stage("preflight", 0, 19)).why, /^It continues on the host, even if this device sleeps/);
});

test("a key that is no longer valid is said, with what may have happened", () => {
	const refused = (left) => headAfter(["key-proved"], ["locked", { refused: true, left }], ["views-opened", { kept: { devvm: {} } }]);
	assert.deepEqual([refused("").words, refused("").second], ["Key no longer valid", "Breakglass refuses this key now"]);
	assert.match(refused("").why, /By hand.*new pairing link/);
	assert.equal(refused("reset").second, "The reset may have happened");
});

test("while evidence is sought, nothing is called not examined", () => {
	assert.equal(headAfter(["look-begun"], statusCame("running", "qemu-running")).words, "Looking closer…");
	assert.equal(headAfter(["look-begun"], statusCame("running", "qemu-running"), ["look-over"]).words, "Not examined");
});
