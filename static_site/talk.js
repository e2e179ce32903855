// The way to the conversation with Claude. Its modules are loaded when they are needed, or when the page has nothing else to do:
// the power buttons never wait for them.

import { $, setText } from "./dom.js";
import { recall } from "./storage.js";
import { dispatch, subscribe } from "./store.js";

/** @typedef {typeof import("./chat.js")} ChatModule */

const IDLE_MS = 2_000;
/** @type {ChatModule|undefined} */
let chat;
/** @type {Promise<ChatModule>|undefined} */
let loading;

/** Loads the conversation's modules, once. */
function loadChat() {
	loading ??= import("./chat.js").then((module) => {
		chat = module;
		dispatch("tick");
		return module;
	});
	loading.catch(() => { loading = undefined; }); // asked for again at the next use
	return loading;
}

/** Calls into the conversation, once it is loaded. @param {(chat: ChatModule) => unknown} act */
export async function withChat(act) {
	try {
		const module = await loadChat();
		act(module);
	} catch {
		setText($("chat-notice"), "The conversation could not be loaded. Reload this page. The power buttons do not need it.");
	}
}

/** Takes up the turn that was under way before a reload, or in another tab. @param {string} vm */
export function resumeChat(vm) {
	if (chat || recall("session", `chat ${vm}`)?.turn) withChat((module) => module.resumeChat());
}

/** Stops listening to every turn: no turn is ended by it. */
export const dropChats = () => chat?.dropChats();

export const renderChat = () => chat?.renderChat();

/** @param {string} id  @param {string} words  @param {boolean} [spent] */
export const noteProposal = (id, words, spent) => chat?.noteProposal(id, words, spent);

/** @param {() => unknown} act */
const whenIdle = (act) => ("requestIdleCallback" in window ? requestIdleCallback(act, { timeout: IDLE_MS }) : setTimeout(act, IDLE_MS));

let wanted = false;
subscribe((state, before) => {
	if (state.tab === "chat" && before.tab !== "chat") withChat(() => {});
	if (wanted || !state.unlocked || !state.views[state.vm]?.seen) return;
	wanted = true;
	whenIdle(() => loadChat().catch(() => {}));
});
