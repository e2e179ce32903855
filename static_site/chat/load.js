// Loads the conversation with Claude. Its modules are loaded when needed, or when the page is idle, so the power buttons never
// wait for them.

import { $, setText } from "../base/dom.js";
import { recall } from "../base/storage.js";
import { chatOf, dispatch, getState, subscribe } from "../state/store.js";
import { mutates } from "../state/verbs.js";

/** @typedef {typeof import("./turns.js")} ChatModule */

const IDLE_MS = 2_000;
/** The beginning of the reason in a request that approves a proposal. */
const PROPOSED = "proposed by claude:";
const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));
/** @type {ChatModule|undefined} */
let chat;
/** @type {Promise<ChatModule>|undefined} */
let loading;

/** Loads the conversation's modules, once. Chromium tries a module that was lost again only after a reload. */
function loadChat() {
	loading ??= import("./turns.js").then((module) => {
		chat = module;
		chat.renderChat();
		return module;
	});
	return loading;
}

/** Calls into the conversation about the shown VM, once it is loaded. @param {(chat: ChatModule) => unknown} act */
export async function withChat(act) {
	const { vm } = getState();
	const module = await loadChat().catch(() => null);
	if (module && vm === getState().vm) act(module);
	if (!module) setText($("chat-notice"), "The conversation could not be loaded. Reload this page. The power buttons still work.");
}

export const renderChat = () => chat?.renderChat();

/** @param {() => unknown} act */
const whenIdle = (act) => ("requestIdleCallback" in window ? requestIdleCallback(act, { timeout: IDLE_MS }) : setTimeout(act, IDLE_MS));

let wanted = false;
subscribe((state, before, { type, vm: of, id, verb, body, answer }) => {
	const { vm } = state;
	if (before.vm && vm !== before.vm) { // unsent words stay with the VM that they are about
		chatOf(before.vm);
		dispatch("draft-left", { vm: before.vm, words: prompt.value });
		prompt.value = state.chats[vm]?.draft ?? "";
	}
	if (chat && before.unlocked && !state.unlocked) prompt.value = "";
	// Whether to continue a turn that was under way before a reload, or in another tab.
	const isCome = type === "unlocked" || (type === "vm-chosen" && state.unlocked && (vm !== before.vm || before.unknownVm));
	if (isCome && (chat || recall("local", `chat ${vm}`)?.turn)) withChat((module) => module.resumeChat(vm));
	// Whether a verb has ended that Claude proposed, so that Claude must learn the outcome.
	const isProposed = type === "settled" && answer.reached && mutates(verb) && JSON.parse(body).reason?.startsWith(PROPOSED);
	if (isProposed) loadChat().then((module) => module.verbEnded(of ?? vm, id), () => {});
	if (state.tab === "chat" && before.tab !== "chat") withChat(() => {});
	if (wanted || !state.unlocked || !state.views[vm]?.seen) return;
	wanted = true;
	whenIdle(() => loadChat().catch(() => {}));
});
