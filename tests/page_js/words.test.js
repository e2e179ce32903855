// Words and times as a person reads them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DOING, POWER, STAGES, VERBS, bringsUp, labelOf, mutates } from "../../static_site/state/verbs.js";
import { capital, clock, detourOf, isVerdict, minute, phraseOf, phraseOfState, sentence, setBehind, span, stateWord, troubleOf, visible } from "../../static_site/base/words.js";
import { NOW, RUN_STATES, VERDICT_CODES } from "./samples.js";

test("how long something takes, in the unit that a person would say", () => {
	const said = [0, 499, 500, 90_000, 119_499, 120_000, 7_199_000, 7_200_000, 172_799_000, 172_800_000, -3_000].map(span);
	assert.deepEqual(said, ["0 s", "0 s", "1 s", "90 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 days", "3 s"]);
});

test("clock times are those of a 24-hour clock", () => {
	assert.deepEqual([clock(NOW), minute(NOW), clock(Date.parse("2026-11-27T15:02:03Z"))], ["03:12:40", "03:12", "15:02:03"]);
});

test("what is shown is the host's time", () => {
	setBehind(180_000);
	assert.equal(clock(NOW), "03:15:40");
	setBehind(0);
});

test("a sentence begins large and ends once", () => {
	assert.deepEqual(["it is off", "it is off.", "is it off?", "wait…", "", undefined].map(sentence), ["It is off.", "It is off.", "Is it off?", "Wait…", "", ""]);
	assert.equal(capital(""), "");
});

test("text shows what could hide in it", () => {
	assert.equal(visible("qm stop\u202e102\u200b\u0007\r\nnext\tline"), "qm stop⟨U+202e⟩102⟨U+200b⟩␇\nnext\tline");
	assert.equal(visible("\u3164\u2028\u009b"), "⟨U+3164⟩⟨U+2028⟩⟨U+9b⟩");
	for (const nothing of [null, undefined, "", 0, false]) assert.equal(visible(nothing), "");
	assert.equal(visible("München 電源 “ok”"), "München 電源 “ok”");
});

test("a code that is not known is said as it is, whatever it is called", () => {
	for (const code of ["constructor", "toString", "hasOwnProperty", "valueOf"]) {
		assert.equal(isVerdict(code), false);
		assert.equal(phraseOf(code).words, capital(code));
		assert.equal(stateWord(code), code);
		assert.equal(troubleOf(code), code);
		assert.match(detourOf(code), /IPMI/);
		assert.equal(labelOf(code), code);
		assert.equal(mutates(code), false);
	}
	assert.equal(troubleOf("claude-overloaded"), "overloaded");
});

test("a state alone is never well, and its word is no sentence", () => {
	for (const state of RUN_STATES) {
		assert.notEqual(phraseOfState(state).tone, "good", state);
		assert.ok(stateWord(state).split(" ").length <= 5, state);
	}
	assert.deepEqual([phraseOfState("running").words, phraseOfState("stopped").words, phraseOfState("wedged").words], ["Not examined", "Off", "QEMU hangs"]);
});

test("a host whose key changed is distrusted, not gone round", () => {
	assert.doesNotMatch(detourOf("host-key-differs"), /console|IPMI/);
	assert.doesNotMatch(detourOf("disabled"), /console|IPMI/);
	assert.match(detourOf("timeout"), /IPMI/);
});

test("what costs something destroys, what brings the VM up can be watched", () => {
	assert.deepEqual(POWER.filter((verb) => VERBS[verb].costs !== "Nothing"), ["cycle", "reset", "stop"]);
	assert.deepEqual(POWER.filter(bringsUp), ["cycle", "reset", "start"]);
	assert.deepEqual(Object.keys(VERBS).filter(mutates), ["cycle", "reset", "start", "stop"]);
	for (const verb of POWER) assert.ok(DOING[verb] && VERBS[verb].stages?.every((stage) => STAGES[stage]), verb);
});
