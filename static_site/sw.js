// The page for when the handler is down: the network for 3 s, then what was kept. Never touches a POST or the API.

const WAIT_MS = 3_000;
const SCRIPTS = "app chat health key lately run send state view words".split(" ");
const FILES = ["./", "style.css", ...SCRIPTS.map((name) => `${name}.js`)];
const TYPES = { js: "javascript", css: "css" };
const kept = caches.open("breakglass");

// A proxy's error or login page is no answer, and is never kept.
async function fetched(name) {
	const response = await fetch(name, { cache: "no-cache" });
	const type = TYPES[name.split(".").pop()] ?? "html";
	if (response.status !== 200 || response.redirected || !response.headers.get("content-type")?.includes(type)) throw response;
	await (await kept).put(name, response.clone());
	return response;
}

async function answer(name) {
	const old = await (await kept).match(name);
	const late = new Promise((resolve) => setTimeout(resolve, WAIT_MS, old));
	return old ? Promise.race([fetched(name), late]).catch(() => old) : fetched(name);
}

self.addEventListener("install", (event) => event.waitUntil(Promise.all(FILES.map(fetched)).then(() => self.skipWaiting())));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
	const home = new URL("./", self.location.href).pathname;
	const { pathname } = new URL(event.request.url);
	const name = pathname.slice(home.length).replace("index.html", "") || "./";
	if (event.request.method === "GET" && pathname.startsWith(home) && FILES.includes(name)) event.respondWith(answer(name));
});
