// The conversations that this page knows, one for each VM, and what it keeps of them.

import { make } from "./dom.js";
import { keep, recall } from "./storage.js";
import { dispatch, getState } from "./store.js";
import { Turn } from "./turn.js";

/** @typedef {{notice?: string, trouble?: string, lost?: boolean, since?: number}} Failure */
/** The conversation about one VM. `turn` is under way; `cut` was, and its rest can be asked for. `log`: whether what was said
 * before is drawn. `check`: the verb that ended, and that Claude was not told of; `byHand` waits for a person.
 * @typedef {{vm: string, session: string|undefined, id: string|undefined, turns: Turn[], turn: Turn|null, cut: Turn|null,
 *   box: HTMLElement, draft: string, failure: Failure, answered: boolean, word: string, flight: AbortController|null,
 *   log: "unread"|"reading"|"failed"|"read", cost: number, check: {job: string, byHand: boolean}|null}} Chat */

export const LIMIT_USD = 1; // once a conversation has cost this, Claude no longer checks by itself

/** @type {Map<string, Chat>} */
const chats = new Map();

/** @param {string} vm */
export function chatOf(vm = getState().vm) {
	const known = chats.get(vm) ?? newChat(vm, recall("local", `chat ${vm}`) ?? {});
	chats.set(vm, known);
	return known;
}

/** @param {string} vm  @param {{session?: string, id?: string, turn?: {id: string, prompt: string, own: boolean, began?: number}|null}} kept  @returns {Chat} */
export function newChat(vm, { session, id, turn }) {
	const cut = turn ? new Turn(turn.id, turn.prompt, undefined, turn.own) : null;
	if (cut) cut.began = turn?.began ?? 0; // of an unknown age is too old to act on
	return {
		vm, session, id, turns: [], turn: null, cut, box: make("div"), draft: "", failure: {}, answered: false, word: "",
		flight: null, log: session ? "unread" : "read", cost: 0, check: null,
	};
}

/** Whether it is still the conversation about its VM. @param {Chat} chat */
export const isCurrent = (chat) => chats.get(chat.vm) === chat;

/** Keeps what a reload needs. @param {Chat} chat */
export function remind(chat) {
	const { vm, session, id, turn, cut } = chat;
	const open = turn ?? cut;
	if (isCurrent(chat)) keep("local", `chat ${vm}`, session || open ? { session, id, turn: open && { id: open.id, prompt: open.prompt, own: open.own, began: open.began } } : null);
}

/** Says to the rest of the page how Claude is. @param {Chat} chat */
export function changed({ vm, failure: { trouble, since }, answered }) {
	dispatch("claude-heard", { vm, claude: { trouble: trouble ?? "", since: since ?? 0, answered } });
}

/** Why nothing can be sent now, or nothing. @param {Chat} chat */
export function whyNot(chat) {
	if (!getState().unlocked) return "Enter the signing key first.";
	if (chat.turn) return "Claude is working.";
	if (chat.log === "reading") return "What was said before is being loaded.";
	return getState().health.answer?.chat === "none" ? "Chat is not set up here. The power buttons do not need it." : "";
}

/** Its end, where it is in the page. @param {Chat} [chat] */
export const scrollToEnd = ({ box } = chatOf()) => box.parentElement?.scrollTo(0, box.parentElement.scrollHeight);

/** Puts a conversation in the place of the one about its VM. @param {Chat} chat */
export function setChat(chat) {
	chats.set(chat.vm, chat);
}

/** Stops listening to every turn, and knows of none any more: no turn is ended by it. */
export function clearChats() {
	for (const chat of chats.values()) chat.flight?.abort();
	chats.clear();
}

export const allChats = () => [...chats.values()];
