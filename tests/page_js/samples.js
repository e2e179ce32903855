// A page as it stands after some events, for the tests of what decides without a browser.

import { reduce } from "../../static_site/state/reduce.js";
import { newState } from "../../static_site/state/shape.js";

process.env.TZ = "UTC"; // times are read in the zone of this machine

export const NOW = Date.parse("2026-11-27T03:12:40Z");
export const VM = "devvm";
export const TONES = ["good", "bad", "warn", "busy", "unknown"];

// The verdicts of docs/api.md, "Verdict codes"; a test in Python holds the page's table to that section.
export const VERDICT_CODES = [
	"healthy", "qemu-running", "guest-silent", "guest-alive", "guest-hung", "heartbeat-lost", "guest-starved", "guest-frozen", "backup-starves", "disk-frozen", "storage-hung",
	"qemu-wedged", "qemu-io-error", "qemu-paused",
	"paused-locked", "in-transit", "qemu-internal-error", "qemu-guest-panicked", "qemu-watchdog", "qemu-shutdown", "qemu-suspended", "qemu-debug", "qemu-stopped",
	"stopped-locked", "other-node", "stale-copy", "place-unknown", "container", "wrong-vm", "ha-stuck", "leftover", "pmxcfs-hung", "pmxcfs-not-mounted", "pmxcfs-dead",
	"no-quorum", "no-config", "not-determined",
];
export const RUN_STATES = [
	"running", "stopped", "elsewhere", "paused", "prelaunch", "io-error", "guest-panicked", "internal-error", "wedged", "unknown",
	"watchdog", "shutdown", "suspended", "debug", "inmigrate", "postmigrate", "finish-migrate", "restore-vm", "save-vm", "colo",
];

// Applies events one after the other: each is [type, what it brings, seconds before NOW].
export function after(...events) {
	const at = (ago = 0) => NOW - 1e3 * ago;
	return events.reduce((state, [type, more = {}, ago]) => reduce(state, { type, at: at(ago), ...more }), newState());
}

const VMS = [{ name: VM, vmid: 102, proxmox: "answering", since: null }];
export const HEALTH = { vms: VMS, chat: "on", config: "ok", hosts: {} };

// What has happened when a page with a key has opened and /health has answered.
export const OPENED = [
	["names-came", { vms: VMS, choice: null }, 3_000],
	["views-opened", { kept: { [VM]: {} } }, 3_000],
	["health-came", { answer: HEALTH, next: NOW + 8_000 }, 2_999],
	["unlocked", {}, 2_998],
];

export const verdictOf = (code, more = {}) => ({ code, sentence: `the sentence of ${code}`, advice: "", evidence: [`the evidence of ${code}`], ...more });

// An answer as the host gives it. `more` replaces parts of it.
export const answerOf = (more = {}) => ({ outcome: "done", reached: true, state: "running", last: "job_0", holder: null, verdict: null, warnings: [], ...more });

// The end of a verb, `ago` seconds before NOW.
export const settledEvent = (verb, more, ago = 0, rest = {}) => [
	"settled", { id: "id_1", verb, answer: answerOf(more), loud: true, clockOff: 0, ...rest }, ago,
];

export const statusCame = (state, code, ago = 0, more = {}) => settledEvent("status", { state, verdict: verdictOf(code), ...more }, ago, { id: "read_1" });
export const evidenceCame = (state, code, ago = 0, more = {}) => settledEvent("forensics", { state, verdict: verdictOf(code), ...more }, ago, { id: "read_2" });

// A verb that changes power is on its way.
export const begun = (verb, ago = 0, more = {}) => ["act-begun", { id: "id_1", verb, lost: false, loud: true, ...more }, ago];
export const stage = (name, n, ago = 0, more = {}) => ["stage-came", { id: "id_1", n, stage: name, ...more }, ago];

// A picture of the console, `ago` seconds before NOW, when `last` was the last job that changed power.
export const pictureCame = (last, ago = 0) => ["picture-came", { picture: { png: "a picture", started: new Date(NOW - 1e3 * ago).toISOString(), last }, words: null }, ago];

export const viewOf = (state) => state.views[VM];
