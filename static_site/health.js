// Who answers.

import { run } from "./run.js";
import { RESTING, changed, health, here, me, store, views } from "./state.js";
import { $, show } from "./words.js";

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
		if (health.fails === 2 || !health.heard) $("by-hand").open = true;
	}
	const wait = health.fails ? Math.min(1_000 * 2 ** health.fails, 30_000) : HEALTH_MS;
	health.next = Date.now() + wait;
	health.timer = setTimeout(poll, wait);
	if (wasDown && !health.fails) run("status", { quiet: !RESTING.has(here().phase) });
	changed();
}

export function takeNames(vms) {
	const names = vms.map((vm) => vm.name);
	const select = $("vm");
	if ([...select.options].map((option) => option.value).join() === names.join()) return;
	select.replaceChildren(...names.map((name) => new Option(name, name)));
	show({ choice: names.length > 1 });
	const chosen = [me.vm, store("session", "vm")].find((name) => names.includes(name)) ?? names[0] ?? "";
	if (!me.vm && views.has("")) views.set(chosen, Object.assign(views.get(""), { vm: chosen }));
	me.vm = select.value = chosen;
}
