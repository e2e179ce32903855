// What the page uses of Trusted Types, which TypeScript's own description of the DOM lacks. A trusted URL is taken for a
// string, so that it fits where the browser takes either.

interface TrustedTypePolicy {
	createScriptURL(input: string): string;
}

interface Window {
	readonly trustedTypes?: {
		createPolicy(name: string, rules: { createScriptURL?: (input: string) => string }): TrustedTypePolicy;
	};
}
