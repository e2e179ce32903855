// Has the page's state, which changes only by events. The parts that draw are called once a frame.

import { onClock } from "../base/send.js";
import { keep, recall } from "../base/storage.js";
import { setBehind } from "../base/words.js";
import { keptOf } from "./conversation.js";
import { reduce, sentOf } from "./reduce.js";
import { newState } from "./shape.js";

/** @typedef {import("./shape.js").State} State */
/** @typedef {import("./shape.js").View} View */

const STALE_MS = 300_000; // the handler refuses a request whose time differs by more
const MOST_SENT = 9; // how many jobs of one VM this device remembers as its own

/** @type {State} */
let state = newState();
/** @typedef {(state: State, before: State, event: import("./shape.js").Event_) => void} Listener */
/** @type {Set<Listener>} */
const listeners = new Set();

export const getState = () => state;

/** Calls `listener` after each event. @param {Listener} listener */
export const subscribe = (listener) => listeners.add(listener);

/** @param {string} type  @param {Record<string, any>} more */
export function dispatch(type, more = {}) {
	const before = state;
	const event = { type, at: Date.now(), ...more };
	state = reduce(state, event);
	persist(before);
	for (const listener of listeners) listener(state, before, event);
}

/** Returns what this device has stored about a VM. @param {string} name  @returns {Partial<View>} */
const keptOfVm = (name) => ({ byHand: recall("local", `by-hand ${name}`) ?? [], proven: recall("local", `proven ${name}`), sent: sentOf(recall("local", `sent ${name}`) ?? []) });

/** Adds a view for each of these VMs, in one event. @param {string[]} names */
export function openViews(names) {
	const fresh = names.filter((name) => !Object.hasOwn(state.views, name));
	if (fresh.length) dispatch("views-opened", { kept: Object.fromEntries(fresh.map((name) => [name, keptOfVm(name)])) });
}

/** Returns what is known of a VM. @param {string} name  @returns {View} */
export function viewOf(name = state.vm) {
	openViews([name]);
	return state.views[name];
}

/** Returns the conversation about a VM. @param {string} vm */
export function chatOf(vm = state.vm) {
	if (!Object.hasOwn(state.chats, vm)) dispatch("chat-opened", { vm, kept: recall("local", `chat ${vm}`) ?? {} });
	return state.chats[vm];
}

/** @param {State} before */
function persist(before) {
	if (state.health.vms !== before.health.vms) keep("local", "vms", state.health.vms);
	for (const [name, view] of state.views === before.views ? [] : Object.entries(state.views)) {
		const old = before.views[name];
		if (!old || old === view) continue;
		if (old.byHand !== view.byHand) keep("local", `by-hand ${name}`, view.byHand);
		if (old.sent !== view.sent) keep("local", `sent ${name}`, Object.keys(view.sent).slice(-MOST_SENT));
		if (old.proven !== view.proven) keep("local", `proven ${name}`, view.proven);
	}
	for (const [vm, chat] of Object.entries(state.chats)) {
		const old = before.chats[vm];
		if (!old || old === chat) continue;
		const kept = keptOf(chat);
		if (JSON.stringify(kept) !== JSON.stringify(keptOf(old))) keep("local", `chat ${vm}`, kept);
	}
}

/** Notes how far this device's clock is behind. @param {number|null} off null if the handler accepted a request's time */
export function takeClock(off) {
	dispatch("clock-measured", { off: off ?? (Math.abs(state.clockOff) > STALE_MS ? 0 : state.clockOff) });
	setBehind(state.clockOff);
}

onClock(takeClock);
