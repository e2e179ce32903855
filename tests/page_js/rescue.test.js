// The pictures of a rescue.

import assert from "node:assert/strict";
import { test } from "node:test";
import { addShot, earlierShots } from "../../static_site/state/rescue.js";
import { NOW, after, OPENED, begun, settledEvent, viewOf } from "./samples.js";

const BEGAN = NOW - 100_000;
const shot = (seconds, png = `picture at ${seconds}`, rows = []) => ({ png, rows, started: "", last: null, at: BEGAN + 1e3 * seconds });
const strip = (...pictures) => {
	let rescue = { began: BEGAN, shots: [shot(-12)] };
	for (const picture of pictures) rescue = addShot(rescue, picture);
	return [...earlierShots(rescue, pictures.at(-1)), pictures.at(-1)].map(({ at }) => (at - BEGAN) / 1e3);
};

test("four pictures of a rescue: before it, the first, one in the middle, now", () => {
	assert.deepEqual(strip(shot(3)), [-12, 3]);
	assert.deepEqual(strip(shot(3), shot(6), shot(9)), [-12, 3, 6, 9]);
	assert.deepEqual(strip(...[3, 6, 9, 12, 15, 18, 21, 24, 27, 30].map((seconds) => shot(seconds))), [-12, 3, 9, 30]);
});

test("what shows the same again is no picture more, by its text or by its bytes", () => {
	assert.deepEqual(strip(shot(3, "one"), shot(6, "one"), shot(9, "one")), [-12, 9]);
	assert.deepEqual(strip(shot(3, "a cursor", ["login:"]), shot(6, "no cursor", ["login:"])), [-12, 6]);
	assert.deepEqual(strip(shot(3, "one"), shot(6, "two"), shot(9, "two")), [-12, 3, 9]);
});

test("a picture of before the verb is none of its pictures, and without a verb there are none", () => {
	const rescue = { began: BEGAN, shots: [] };
	assert.equal(addShot(rescue, shot(-1)), rescue);
	assert.equal(addShot(null, shot(3)), null);
	assert.deepEqual(earlierShots(rescue, shot(-1)), []);
});

const at = (seconds) => new Date(NOW + 1e3 * seconds).toISOString();
const came = (seconds, more = {}) => ["picture-came", { picture: { png: `${seconds}`, started: at(seconds), ...more }, words: null }];

test("the page keeps the picture before a verb, and those after it; one that was refused has none", () => {
	const done = viewOf(after(...OPENED, came(-20), begun("cycle", 10), settledEvent("cycle"), ["screen-came", { picture: { png: "new", started: at(0), live: true }, state: "running" }]));
	assert.deepEqual(done.rescue.shots.map(({ png }) => png), ["-20", "new"]);
	assert.equal(viewOf(after(...OPENED, came(-20), begun("cycle", 10), settledEvent("cycle", { outcome: "refused" }))).rescue, null);
});

test("text that is no list of lines is no text", () => {
	for (const rows of [undefined, null, "login:", 5]) assert.deepEqual(viewOf(after(...OPENED, came(-1, { rows }))).picture.rows, []);
	assert.deepEqual(viewOf(after(...OPENED, came(-1, { rows: ["login:", 5] }))).picture.rows, ["login:", "5"]);
});
