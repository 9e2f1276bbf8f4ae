/**
 * The process: one JSON object a line. In: {id, op, args} starts an operation, {id, go: step} lets it pass a step at which
 * it is held. Out: {id, at: step, told} as it reaches one, and at last {id, ok} or {id, error: {name, message, details}}.
 *
 * Operations run side by side. `args.hold` maps steps to true (until `go`) or to milliseconds. It ends with its input.
 */

import { createECDH } from 'node:crypto';
import { createInterface } from 'node:readline';
import mongoose from 'mongoose';
import * as documents from './documents.mjs';
import { openWallet } from './mint.mjs';
import * as minting from './minting.mjs';
import { outward, WalletError } from './outcome.mjs';
import * as payments from './payments.mjs';
import { modelsOf } from './schema.mjs';

const service = {
  models: null,
  connection: null,
  mintUrl: null,
  unit: 'sat',
  wallet: () => openWallet(service.mintUrl, service.unit),
  async owner(npub) {
    const found = await service.models.Wallet.findOne({ npub, mint_url: service.mintUrl });
    if (!found) throw new WalletError('NO_WALLET', 'this user has no wallet at this mint');
    return found;
  },
};

async function connect(_, { mongo_uri: uri, database, mint_url: mintUrl, unit = 'sat', secret_index: secretIndex = false }) {
  await service.connection?.close();
  service.connection = await mongoose
    .createConnection(uri, { dbName: database, autoIndex: false, autoCreate: false, serverSelectionTimeoutMS: 10_000 })
    .asPromise();
  Object.assign(service, { mintUrl, unit, models: modelsOf(service.connection, { secretIndex }) });
  return { node: process.version, mongoose: mongoose.version };
}

/** What a service does at its start: collections and its own indexes, under Mongoose's own names. */
async function init() {
  for (const model of Object.values(service.models)) {
    await model.createCollection();
    await model.createIndexes();
  }
  return indexes();
}

/** As `init`, and every index that the schema does not know is dropped. */
async function syncIndexes() {
  const dropped = {};
  for (const model of Object.values(service.models)) dropped[model.collection.name] = await model.syncIndexes();
  return { dropped };
}

async function indexes() {
  const names = {};
  for (const model of Object.values(service.models)) names[model.collection.name] = (await model.listIndexes()).map((one) => one.name);
  return names;
}

async function createWallet(_, { npub }) {
  const keys = createECDH('secp256k1');
  keys.generateKeys();
  const wallet = await service.models.Wallet.create({
    npub,
    mint_url: service.mintUrl,
    p2pk_pubkey: keys.getPublicKey('hex', 'compressed'),
    p2pk_privkey: keys.getPrivateKey('hex').padStart(64, '0'),
    wallet_config: { unit: service.unit },
  });
  return { id: wallet.id };
}

const operations = { connect, init, syncIndexes, createWallet, ...minting, ...payments, ...documents };

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** The steps of one running operation. A `go` may come before its step is reached. */
class Steps {
  #waiting = new Map();
  #gone = new Set();

  constructor(id, hold) {
    this.id = id;
    this.hold = hold;
  }

  async at(step, told = {}) {
    const hold = this.hold[step];
    say({ id: this.id, at: step, told });
    if (!hold || this.#gone.has(step)) return;
    await new Promise((resolve) => {
      this.#waiting.set(step, resolve);
      if (hold !== true) setTimeout(resolve, hold);
    });
  }

  go(step) {
    this.#gone.add(step);
    this.#waiting.get(step)?.();
  }
}

const running = new Map();

async function run({ id, op, args: { hold = {}, ...args } = {} }) {
  const steps = new Steps(id, hold);
  running.set(id, steps);
  try {
    if (!Object.hasOwn(operations, op)) throw new WalletError('UNKNOWN_OPERATION', `no operation ${op}`);
    say({ id, ok: (await operations[op](service, args, steps)) ?? null });
  } catch (error) {
    say({ id, error: outward(error) });
  } finally {
    running.delete(id);
  }
}

// cashu-ts writes some errors to the console, with the mint's words in them; the line protocol has standard output.
console.log = console.error;

const input = createInterface({ input: process.stdin, terminal: false });
input.on('line', (text) => {
  const line = JSON.parse(text);
  if (line.go) running.get(line.id)?.go(line.go);
  else run(line);
});
input.on('close', () => process.exit(0));
