// The way to the conversation with Claude. Its modules are loaded when needed, or when the page is idle: the power buttons never
// wait for them.

import { $, setText } from "./dom.js";
import { recall } from "./storage.js";
import { dispatch, getState, subscribe } from "./store.js";

/** @typedef {typeof import("./chat.js")} ChatModule */

const IDLE_MS = 2_000;
/** What begins the reason of a request that approves a proposal. */
const PROPOSED = "proposed by claude:";
const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));
/** What was written for a VM that is not shown, before the conversation was loaded. @type {Map<string, string>} */
const early = new Map();
/** @type {ChatModule|undefined} */
let chat;
/** @type {Promise<ChatModule>|undefined} */
let loading;

/** Loads the conversation's modules, once. */
function loadChat() {
	loading ??= import("./chat.js").then((module) => {
		chat = module;
		for (const [vm, words] of early) module.takeDraft(module.chatOf(vm), words);
		module.renderChat(); // from here on the composer is its own
		dispatch("tick");
		return module;
	});
	loading.catch(() => { loading = undefined; }); // asked for again at the next use
	return loading;
}

/** Calls into the conversation about the shown VM, once it is loaded. @param {(chat: ChatModule) => unknown} act */
export async function withChat(act) {
	const { vm } = getState();
	const module = await loadChat().catch(() => null);
	if (module && vm === getState().vm) act(module);
	if (!module) setText($("chat-notice"), "The conversation could not be loaded. Reload this page. The power buttons do not need it.");
}

/** Takes up the turn that was under way before a reload, or in another tab. @param {string} vm */
export function resumeChat(vm) {
	if (chat || recall("local", `chat ${vm}`)?.turn) withChat((module) => module.resumeChat());
}

/** Stops listening to every turn: no turn is ended by it. */
export function dropChats() {
	early.clear();
	chat?.dropChats();
}

export const renderChat = () => chat?.renderChat();

/** @param {string} id  @param {string} words  @param {boolean} [spent] */
export const noteProposal = (id, words, spent) => chat?.noteProposal(id, words, spent);

/** Why a proposal can't be approved now, or nothing. @param {string} id */
export const proposalObstacle = (id) => chat?.proposalObstacle(id) ?? "";

/** Tells the conversation that a verb ended: if Claude proposed it, Claude is told. @param {string} vm  @param {{id: string, body: string}} job */
export function verbEnded(vm, { id, body }) {
	if (JSON.parse(body).reason?.startsWith(PROPOSED)) loadChat().then((module) => module.verbEnded(vm, id), () => {});
}

/** @param {() => unknown} act */
const whenIdle = (act) => ("requestIdleCallback" in window ? requestIdleCallback(act, { timeout: IDLE_MS }) : setTimeout(act, IDLE_MS));

let wanted = false;
subscribe((state, before) => {
	if (!chat && before.vm && state.vm !== before.vm) {
		early.set(before.vm, prompt.value);
		prompt.value = early.get(state.vm) ?? "";
		early.delete(state.vm);
	}
	if (state.tab === "chat" && before.tab !== "chat") withChat(() => {});
	if (wanted || !state.unlocked || !state.views[state.vm]?.seen) return;
	wanted = true;
	whenIdle(() => loadChat().catch(() => {}));
});
