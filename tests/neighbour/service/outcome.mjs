/** What an operation ends with when it does not go well: a name that tests compare, and nothing secret. */

export class WalletError extends Error {
  constructor(name, message, details = {}) {
    super(message);
    this.name = name;
    this.details = details;
  }
}

/** Secrets, C and the driver's quotes of either are runs of hex; ids of documents are shorter. */
const withoutSecrets = (text) => String(text).replace(/[0-9a-f]{40,}/gi, '<hex>');

/** Any error as it leaves the process: {name, message, details}. */
export function outward(error) {
  if (error instanceof WalletError) {
    return { name: error.name, message: withoutSecrets(error.message), details: error.details };
  }
  if (error?.name === 'ValidationError') {
    return { name: 'VALIDATION', message: withoutSecrets(error.message), details: { paths: invalidPaths(error) } };
  }
  if (error?.code === 11000) {
    return { name: 'E11000', message: withoutSecrets(error.message), details: { keys: Object.keys(error.keyPattern ?? {}) } };
  }
  if (error?.name === 'MintOperationError') {
    return { name: 'MINT_REJECTED', message: withoutSecrets(error.message), details: { code: error.code } };
  }
  if (error?.name === 'NetworkError' || error?.name === 'HttpResponseError') {
    return { name: 'MINT_UNREACHABLE', message: withoutSecrets(error.message), details: {} };
  }
  return { name: error?.name ?? 'Error', message: withoutSecrets(error?.message ?? error), details: { code: error?.code } };
}

/** Path to reason, of a Mongoose ValidationError. */
export const invalidPaths = (error) =>
  Object.fromEntries(Object.entries(error.errors ?? {}).map(([path, one]) => [path, withoutSecrets(one.message)]));
