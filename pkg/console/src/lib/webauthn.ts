// What the gateway says of passkeys is JSON, and what browsers take is not: bytes are base64url there, and buffers here
// (WebAuthn level 3, section 5.1.8 and following, which not every browser has yet).

type Json = Record<string, unknown>;

export function bytes(text: string): Uint8Array<ArrayBuffer> {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (c) => c.charCodeAt(0));
}

export function text(buffer: ArrayBuffer): string {
  let out = "";
  for (const b of new Uint8Array(buffer)) out += String.fromCharCode(b);
  return btoa(out).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function descriptors(list: unknown): PublicKeyCredentialDescriptor[] {
  return (Array.isArray(list) ? (list as Json[]) : []).map((c) => ({ ...c, type: "public-key", id: bytes(String(c["id"])) }) as PublicKeyCredentialDescriptor);
}

/** creation makes options for navigator.credentials.create of the gateway's. */
export function creation(options: Json): PublicKeyCredentialCreationOptions {
  const user = options["user"] as Json;
  return { ...options, challenge: bytes(String(options["challenge"])), user: { ...user, id: bytes(String(user["id"])) }, excludeCredentials: descriptors(options["excludeCredentials"]) } as unknown as PublicKeyCredentialCreationOptions;
}

/** request makes options for navigator.credentials.get of the gateway's. */
export function request(options: Json): PublicKeyCredentialRequestOptions {
  return { ...options, challenge: bytes(String(options["challenge"])), allowCredentials: descriptors(options["allowCredentials"]) } as unknown as PublicKeyCredentialRequestOptions;
}

/** answer is a credential as the gateway takes it. */
export function answer(credential: PublicKeyCredential): Json {
  const r = credential.response as AuthenticatorAttestationResponse & AuthenticatorAssertionResponse;
  const response: Json = { clientDataJSON: text(r.clientDataJSON) };
  if ("attestationObject" in r && r.attestationObject) {
    response["attestationObject"] = text(r.attestationObject);
    response["transports"] = r.getTransports?.() ?? [];
  } else {
    response["authenticatorData"] = text(r.authenticatorData);
    response["signature"] = text(r.signature);
    if (r.userHandle) response["userHandle"] = text(r.userHandle);
  }
  return {
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    clientExtensionResults: credential.getClientExtensionResults(),
    ...(credential.authenticatorAttachment ? { authenticatorAttachment: credential.authenticatorAttachment } : {}),
    response,
  };
}

/** trouble says why a browser did not do it, in a sentence. */
export function trouble(error: unknown): string {
  if (error instanceof DOMException) {
    if (error.name === "NotAllowedError" && /certificate/i.test(error.message)) return "The browser keeps passkeys away from this page, because it does not trust the gateway's certificate. Trust that, or use another factor.";
    if (error.name === "NotAllowedError") return "The browser was not given what it asked for, or it took too long. Try again, or use another factor.";
    if (error.name === "InvalidStateError") return "This device is one of your factors already.";
    return `The browser could not do this: ${error.message}`;
  }
  return error instanceof Error ? error.message : "The browser could not do this.";
}
