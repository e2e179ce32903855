// Who answers.

import { run } from "./run.js";
import { RESTING, changed, fullName, health, here, me, proxmoxTrouble, store, views, vmHealth } from "./state.js";
import { $, clock, minute, put, show, text, trouble } from "./words.js";

const HEALTH_MS = 10_000;

export async function poll() {
	clearTimeout(health.timer);
	const wasDown = health.fails > 1;
	try {
		const response = await fetch("health", { cache: "no-store", signal: AbortSignal.timeout(8_000) });
		const heard = await response.json();
		takeNames(heard.vms);
		Object.assign(health, { heard, fails: 0, downSince: 0, at: Date.now() });
		store("local", "vms", heard.vms);
	} catch {
		health.fails += 1;
		health.downSince ||= Date.now();
		if (!me.vm) takeNames(store("local", "vms") ?? []);
		if (health.fails === 2 || !health.heard) $("by-hand").open = true;
	}
	const wait = health.fails ? Math.min(1_000 * 2 ** health.fails, 30_000) : HEALTH_MS;
	health.next = Date.now() + wait;
	health.timer = setTimeout(poll, wait);
	if (wasDown && !health.fails) run("status", { quiet: !RESTING.has(here().phase) });
	changed();
}

function takeNames(vms) {
	const names = vms.map((vm) => vm.name);
	const select = $("vm");
	if ([...select.options].map((option) => option.value).join() === names.join()) return;
	select.replaceChildren(...names.map((name) => new Option(name, name)));
	show({ choice: names.length > 1 });
	const chosen = names.includes(me.vm) ? me.vm : names[0] ?? "";
	if (!me.vm && views.has("")) views.set(chosen, views.get(""));
	me.vm = select.value = chosen;
}

function light(name, tone, word, since) {
	const item = $(`light-${name}`);
	item.dataset.tone = tone;
	put(item.querySelector("i"), { good: "●", bad: "✕", warn: "?" }[tone] ?? "○");
	put(item.querySelector("b"), tone === "bad" && since ? `${word} since ${minute(since)}` : word);
}

export function renderLights(view, chat) {
	const { heard, fails, downSince } = health;
	light("handler", ...fails ? ["bad", "not answering"] : heard ? ["good", "answering"] : ["warn", "not checked"], downSince);
	const vm = heard && !fails && vmHealth();
	const what = proxmoxTrouble(view);
	const known = vm && vm.proxmox !== "not-checked";
	light("proxmox", ...what ? ["bad", `${what},`] : known ? ["good", "answering"] : ["warn", "not checked"], vm?.since);
	const told = heard?.chat;
	const down = chat.trouble || (["on", "off", undefined].includes(told) ? "" : told);
	const open = heard?.chat_isolated === false ? ", not isolated" : "";
	const ready = told === "off" ? ["", "not set up"] : chat.answered ? ["good", `answering${open}`] : ["warn", `not checked${open}`];
	light("claude", ...down ? ["bad", `not answering: ${trouble(down)}`] : ready, chat.trouble && chat.since);
	const config = heard?.config ?? "ok";
	show({ config: config !== "ok" });
	text({
		config: `The handler’s configuration is ${config.replace(/20\S+Z/, clock)}. Its log says what to mend.`,
		name: me.vm ? fullName() : "Breakglass",
	});
}
