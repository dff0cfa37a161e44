// Creates and uses passkeys. Without scripts or WebAuthn, its forms stay hidden.
"use strict";

const decode = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));

const encode = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replace(/\+/g, "-")
    .replace(/\//g, "_")
    .replace(/=+$/, "");

const credentials = (known) =>
  known
    .split(" ")
    .filter((id) => id !== "")
    .map((id) => ({ type: "public-key", id: decode(id) }));

async function create(data) {
  const credential = await navigator.credentials.create({
    publicKey: {
      challenge: decode(data.challenge),
      rp: { id: data.domain, name: data.site || data.domain },
      user: { id: decode(data.userId), name: data.user, displayName: data.user },
      pubKeyCredParams: data.algorithms
        .split(" ")
        .map((alg) => ({ type: "public-key", alg: Number(alg) })),
      excludeCredentials: credentials(data.known),
      authenticatorSelection: { residentKey: "preferred", userVerification: "preferred" },
      attestation: "none",
    },
  });
  const response = credential.response;
  return {
    client_data: encode(response.clientDataJSON),
    authenticator_data: encode(response.getAuthenticatorData()),
    public_key: encode(response.getPublicKey()),
    algorithm: String(response.getPublicKeyAlgorithm()),
  };
}

async function get(data) {
  const credential = await navigator.credentials.get({
    publicKey: {
      challenge: decode(data.challenge),
      rpId: data.domain,
      allowCredentials: credentials(data.known),
      userVerification: "preferred",
    },
  });
  const response = credential.response;
  return {
    credential: encode(credential.rawId),
    client_data: encode(response.clientDataJSON),
    authenticator_data: encode(response.authenticatorData),
    signature: encode(response.signature),
  };
}

for (const form of window.PublicKeyCredential ? document.querySelectorAll("form[data-passkey]") : []) {
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const error = form.querySelector("[role=alert]");
    error.hidden = true;
    try {
      const values = await (form.dataset.passkey === "create" ? create : get)(form.dataset);
      for (const [name, value] of Object.entries(values)) {
        form.elements.namedItem(name).value = value;
      }
      form.submit();
    } catch {
      error.hidden = false;
    }
  });
}
