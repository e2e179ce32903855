// All VMs as the list shows them: those that need a person first, then those that are off, then those that are not known, then those that run. Pure.

import { MINUTE, phraseOf, span } from "../base/words.js";
import { isAway, knownOf, proxmoxTrouble } from "../state/rules.js";
import { headlineOf } from "./headline.js";

/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("../state/shape.js").View} View */
/** `key` is the name of the VM, or of the host if one row stands for all its VMs.
 * @typedef {{key: string, vm: string, find: string, title: string, words: string, tone: string, icon: string, age: string}} Row */
/** @typedef {{name: string, title: string, note: string, rows: Row[]}} Group */

const OFF = phraseOf("qemu-stopped").words; // such a VM may be off on purpose
const MOST_OF_HOST = 3; // the most VMs of a host out of reach that have own rows; more VMs share one row

/** @type {Record<string, (count: number) => string>} */
const TITLES = {
	need: (count) => (count === 1 ? "1 needs you" : `${count} need you`),
	off: (count) => `${count} off`,
	acts: (count) => `${count} under way`,
	unknown: (count) => `${count} not known`,
	run: (count) => (count === 1 ? "1 runs" : `${count} run`),
};

/** @param {State} state  @param {View} view  @param {import("./headline.js").Headline} head  @param {number} now */
function groupOf(state, view, { tone, words }, now) {
	if (words === OFF) return "off";
	if (tone === "bad" || tone === "warn") return "need";
	const { seen, open, trouble } = view;
	if (open || view.phase === "unknown") return tone === "busy" ? "acts" : "unknown";
	if (tone === "busy" && (seen?.holder || view.watch?.on)) return "acts";
	const isSure = !isAway(state) && !trouble && !proxmoxTrouble(state, view) && seen && Math.abs(now - seen.at) <= MINUTE;
	return isSure && seen.state === "running" ? "run" : "unknown";
}

/** Returns the groups that are not empty. Only VMs whose rows have all words of `query` are in them.
 * @param {State} state  @param {number} now  @param {string} query  @returns {Group[]} */
export function groupsOf(state, now, query = "") {
	const words = query.toLowerCase().split(/\s+/).filter(Boolean);
	const known = { ...state, unknownVm: "" }; // a link to a VM that does not exist here says nothing about the VMs of the list
	/** @type {Record<string, {row: Row, isBad: boolean, host: string, cut: boolean, at: number}[]>} */
	const found = { need: [], off: [], acts: [], unknown: [], run: [] };
	for (const { name, vmid, host } of state.health.vms) {
		const view = knownOf(state, name);
		const head = headlineOf(known, view, now);
		const group = groupOf(known, view, head, now);
		const title = [name, vmid, host].filter(Boolean).join(" · ");
		const runs = group === "run" && head.words === "Not examined"; // the list shows a VM that was not examined as running
		const said = runs ? "Running" : head.words;
		if (!words.every((word) => `${title} ${said}`.toLowerCase().includes(word))) continue;
		const tone = group === "run" && head.tone !== "good" ? "" : head.tone;
		const age = group !== "run" && view.seen ? span(now - view.seen.at) : "";
		const row = { key: name, vm: name, find: "", title, words: said, tone, icon: group === "run" && (runs || head.icon !== "unknown") ? "running" : head.icon, age };
		found[group].push({ row, isBad: tone === "bad", host: host ?? "", cut: Boolean(proxmoxTrouble(state, view)), at: view.seen?.at ?? 0 });
	}
	return Object.entries(found).filter(([, rows]) => rows.length).map(([name, rows]) => {
		const sorted = rows.toSorted((a, b) => Number(b.isBad) - Number(a.isBad)); // no row moves for any other reason
		const oldest = Math.min(...rows.map(({ at }) => at));
		const note = name === "run" ? `looked at in the last ${span(now - oldest)}` : "";
		return { name, title: TITLES[name](rows.length), note, rows: name === "unknown" && !words.length ? foldHosts(sorted) : sorted.map(({ row }) => row) };
	});
}

/** Replaces the rows of a host that is out of reach by one row, if there are many. @param {{row: Row, host: string, cut: boolean}[]} rows  @returns {Row[]} */
function foldHosts(rows) {
	/** @type {Map<string, number>} */
	const cut = new Map();
	for (const { host } of rows.filter((each) => each.cut)) cut.set(host, (cut.get(host) ?? 0) + 1);
	const told = new Set();
	return rows.flatMap((each) => {
		const { row, host } = each;
		const count = each.cut && host ? cut.get(host) ?? 0 : 0;
		if (count <= MOST_OF_HOST) return [row];
		if (told.has(host)) return [];
		told.add(host);
		return [{ ...row, key: `host ${host}`, vm: "", find: host, title: `${host}: ${count} VMs`, age: "" }];
	});
}
