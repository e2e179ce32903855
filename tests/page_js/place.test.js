// Where Back and Forward lead.

import assert from "node:assert/strict";
import { test } from "node:test";
import { addressOf, isSamePlace, placeOf } from "../../static_site/state/rules.js";

test("a place is a VM and a part of the page", () => {
	const place = placeOf({ vm: "devvm", tab: "history", key: "proved" });
	assert.deepEqual(place, { vm: "devvm", tab: "history" });
	for (const [other, same] of [[place, true], [{ ...place }, true], [{ ...place, tab: "vm" }, false], [{ ...place, vm: "twin" }, false], [null, false]]) {
		assert.equal(isSamePlace(place, other), same);
	}
});

test("the address names a VM where there is a choice, and none while all are shown", () => {
	const vms = [{ name: "devvm" }, { name: "twin" }];
	assert.equal(addressOf({ vm: "twin", tab: "chat", health: { vms } }), "#vm=twin");
	assert.equal(addressOf({ vm: "twin", tab: "list", health: { vms } }), "");
	assert.equal(addressOf({ vm: "devvm", tab: "vm", health: { vms: vms.slice(1) } }), undefined);
});
