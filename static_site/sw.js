// Serves the page from a cache while the handler is down. Never touches a POST or the API.
// One set: old and new files do not mix.

const WAIT_MS = 3_000;
const SCRIPTS = "app bar chat dialog dom headline health history key look reduce render render_bar render_history render_list render_vm rules run send storage store turn verbs words".split(" ");
const FILES = ["./", "style.css", ...SCRIPTS.map((name) => `${name}.js`)];

// A proxy's error or login page is no answer.
async function fetched(name) {
	const response = await fetch(name, { cache: "no-cache", signal: AbortSignal.timeout(WAIT_MS) });
	const type = response.headers.get("content-type") ?? "";
	if (response.status !== 200 || response.redirected || type.includes("html") !== (name === "./")) throw response;
	await response.clone().blob(); // all of it
	return response;
}

async function renew() {
	const set = await Promise.all(FILES.map(fetched));
	const cache = await caches.open("breakglass");
	const puts = set.map((response, n) => cache.put(FILES[n], response));
	await Promise.all(puts).catch(() => caches.delete("breakglass")); // a full disk: none is better than half
}

async function answer(name, request) {
	if (request.mode === "navigate") await renew().catch(() => {});
	return await caches.match(name) ?? fetch(request);
}

addEventListener("install", (event) => event.waitUntil(renew().then(() => skipWaiting())));
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
	const home = new URL(".", location).pathname;
	const { method, url } = event.request;
	const { pathname } = new URL(url);
	const name = pathname.slice(home.length).replace("index.html", "") || "./";
	if (method === "GET" && pathname.startsWith(home) && FILES.includes(name)) event.respondWith(answer(name, event.request));
});
