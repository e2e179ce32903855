// The list of all VMs: in which group each stands, in which order, and what a search leaves of it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { lookOfAll } from "../../static_site/vm/bar.js";
import { groupsOf } from "../../static_site/vm/groups.js";
import { NOW, after, answerOf, begun, verdictOf } from "./samples.js";

const vm = (name, vmid, host, proxmox = "answering") => ({ name, vmid, host, proxmox, since: null });
const VMS = [vm("web", 110, "pve1"), vm("db", 111, "pve1"), vm("mail", 112, "pve1"), vm("devvm", 102, "pve2"), ...[1, 2, 3, 4].map((n) => vm(`far${n}`, 120 + n, "pve3"))];
const told = (name, state, code, more = {}) => ({ vm: name, state, last: "none", holder: null, heartbeat: null, verdict: verdictOf(code), ...more });
const HOLDER = { job: "job_1", verb: "reset", by: "anna", since: new Date(NOW).toISOString(), deadline: 40 };

// The list after pve1 has told these states, `ago` seconds before NOW, and after further events.
function listed(states, { query = "", ago = 4, vms = VMS, more = [], icon = false } = {}) {
	const answer = { vms, chat: "on", config: "ok", hosts: {} };
	const state = after(["names-came", { vms, choice: "devvm" }, 30], ["health-came", { answer, next: NOW }, 30], ["unlocked", {}, 29],
		["views-opened", { kept: Object.fromEntries(vms.map(({ name }) => [name, {}])) }, 29],
		["states-asked", { names: ["web", "db", "mail"] }, ago], ["states-came", { names: ["web", "db", "mail"], answer: answerOf({ states }), clockOff: 0 }, ago], ...more);
	return { state, groups: groupsOf(state, NOW, query).map(({ title, note, rows }) => [title, note, ...rows.map((row) => `${row.title}: ${row.words} ${icon ? row.icon : row.age}`.trim())]) };
}

const RUNS = told("web", "running", "qemu-running");
const [DB_OFF, MAIL_HANGS] = [told("db", "stopped", "qemu-stopped"), told("mail", "wedged", "qemu-wedged")];
const UNSEEN = ["devvm · 102 · pve2: Not known", ...[1, 2, 3, 4].map((n) => `far${n} · ${120 + n} · pve3: Not known`)];

for (const [what, states, options, expected] of [
	["the worst comes first, and those that run say no age each", [RUNS, DB_OFF, MAIL_HANGS], {},
		[["1 needs you", "", "mail · 112 · pve1: QEMU hangs 4 s"], ["1 off", "", "db · 111 · pve1: Off 4 s"], ["5 not known", "", ...UNSEEN], ["1 runs", "looked at in the last 4 s", "web · 110 · pve1: Running"]]],
	["one that may be idle or hung has no check mark", [told("web", "running", "guest-silent")], { query: "web", icon: true }, [["1 runs", "looked at in the last 4 s", "web · 110 · pve1: Idle or hung unknown"]]],
	["what is a minute old is not known", [RUNS], { ago: 61, query: "web" }, [["1 not known", "", "web · 110 · pve1: Out of date 61 s"]]],
	["one that another caller acts on is under way", [{ ...RUNS, holder: HOLDER }], { query: "web" }, [["1 under way", "", "web · 110 · pve1: Resetting… 4 s"]]],
	["a verb without an answer is not known", [RUNS], { query: "web", more: [["act-begun", { ...begun("reset")[1], vm: "web", lost: true }]] }, [["1 not known", "", "web · 110 · pve1: Outcome not known 4 s"]]],
	["one that its host did not tell is being looked at", [], { query: "110" }, [["1 not known", "", "web · 110 · pve1: Looking…"]]],
	["a row that is being looked at keeps its place", [], {}, [["8 not known", "", ...["web · 110", "db · 111", "mail · 112"].map((title) => `${title} · pve1: Looking…`), ...UNSEEN]]],
	["a search needs all of its words, in any order, in upper case or not", [RUNS, DB_OFF, MAIL_HANGS], { query: "PVE1 off" }, [["1 off", "", "db · 111 · pve1: Off 4 s"]]],
	["a search may leave none", [RUNS], { query: "nosuch" }, []],
]) test(what, () => assert.deepEqual(listed(states, options).groups, expected));

test("the VMs of a host that is out of reach are one row, which a search opens", () => {
	const vms = VMS.map((each) => (each.host === "pve3" ? { ...each, proxmox: "timeout" } : each)).filter(({ host }) => host === "pve3");
	const { state } = listed([], { vms });
	const [{ rows: [row], ...group }, ...more] = groupsOf(state, NOW);
	assert.deepEqual([row.title, row.find, row.vm, group.title, more.length], ["pve3: 4 VMs", "pve3", "", "4 not known", 0]);
	assert.equal(groupsOf(state, NOW, "pve3")[0].rows.length, 4);
});

test("a host that can't be asked is the reason why its VMs are not known", () => {
	const answer = { outcome: "unreached", reached: false, verdict: verdictOf("timeout"), by_hand: ["of another VM"] };
	const { state } = listed([RUNS], { more: [["states-came", { names: ["web", "db"], answer, clockOff: 0 }]] });
	assert.match(state.views.db.trouble, /^Could not check at .*: the sentence of timeout\.$/);
	assert.deepEqual([state.views.db.byHand, state.views.mail.trouble], [[], ""]);
	assert.equal(groupsOf(state, NOW, "web")[0].name, "unknown");
});

test("a VM that is asked for more by itself is left alone", () => {
	const { state } = listed([], { more: [["read-begun", { vm: "web", verb: "forensics", loud: false }], ["states-came", { names: ["web"], answer: answerOf({ states: [DB_OFF, { ...RUNS, state: "paused" }] }), clockOff: 0 }]] });
	assert.deepEqual([state.views.web.seen, state.views.web.reading, state.views.db.seen.state], [null, "forensics", "stopped"]);
	const acts = listed([], { more: [["act-begun", { ...begun("reset")[1], vm: "web" }], ["states-came", { names: ["web"], answer: answerOf({ states: [DB_OFF, RUNS] }), clockOff: 0 }]] }).state;
	assert.deepEqual([acts.views.web.seen, acts.views.web.acting], [null, true]);
});

test("the bar below the list says how much of it is known", () => {
	const { word, sentence } = lookOfAll(listed([RUNS, DB_OFF]).state, NOW);
	assert.deepEqual([word, sentence], ["Looked 03:12:36", "2 of 8 known"]);
});
