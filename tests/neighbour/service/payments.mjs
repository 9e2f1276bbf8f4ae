/** Paying: the four steps of a melt, and handing tokens to others. */

import { randomBytes } from 'node:crypto';
import { getDecodedToken, getEncodedToken } from '@cashu/cashu-ts';
import { part, plain, sum, unchanged } from './mint.mjs';
import { WalletError } from './outcome.mjs';

const transactionId = (kind) => `tx_${kind}_${Math.floor(Date.now() / 1000)}_${randomBytes(4).toString('hex')}`;

/** What a part of this many proofs costs at most beside its amount: the fees of swapping all and of spending the parts. */
const feesAbout = (wallet, proofs) =>
  wallet.getFeesForProofs(proofs) + wallet.getFeesForKeyset(24, wallet.getActiveKeyset(wallet.keysets).id);

/**
 * Whole `unspent` documents, the oldest first, until they cover `amount` and fees. A `sent` document is somebody else's by now,
 * even where old code left it `unspent`.
 */
async function chooseSources({ models, mintUrl }, wallet, npub, amount) {
  const documents = await models.Token.find({
    npub,
    mint_url: mintUrl,
    status: 'unspent',
    transaction_type: { $ne: 'sent' },
  }).sort({ createdAt: 1, _id: 1 });
  const sources = [];
  let proofs = [];
  for (const document of documents) {
    sources.push(document);
    proofs = proofs.concat(plain(document.proofs));
    if (sum(proofs) >= amount + feesAbout(wallet, proofs)) return { sources, proofs };
  }
  throw new WalletError('INSUFFICIENT_FUNDS', 'the unspent documents do not cover it', { needed: amount, balance: sum(proofs) });
}

/** NUT-07 about all of them; a proof that is gone although its document says `unspent` blocks. */
async function refuseDrift(wallet, proofs) {
  const states = await wallet.checkProofsStates(proofs);
  const spent = states.filter((state) => state.state === 'SPENT').length;
  if (spent) throw new WalletError('HIGH_SEVERITY_DISCREPANCIES', 'the mint calls chosen proofs SPENT', { spent });
}

/** Step 4's look: each source as it is now, or none of it. */
async function sourcesStillUnspent({ models }, sources, lost) {
  const now = await models.Token.find({ _id: { $in: sources.map((source) => source._id) } });
  if (now.length !== sources.length || now.some((document) => document.status !== 'unspent')) {
    throw new WalletError('CONCURRENT_OPERATION', 'a source document is not unspent any more', { lost: sum(lost) });
  }
  return now;
}

async function markSpent(documents) {
  for (const document of documents) {
    document.status = 'spent';
    document.spent_at = new Date();
    await document.save();
  }
}

const change = (owner, { tx, suffix, proofs, parent = tx }) => ({
  npub: owner.npub,
  wallet_id: owner._id,
  proofs,
  mint_url: owner.mint_url,
  total_amount: sum(proofs),
  status: 'unspent',
  transaction_type: 'change',
  transaction_id: `${tx}_${suffix}`,
  metadata: { source: 'change', parent_transaction_id: parent, operation_timestamp: new Date().toISOString() },
});

/** Nothing of a change of nothing. */
const stored = async ({ models }, document) => (document.proofs.length ? await models.Token.create(document) : null);

/** The POST, and whatever the mint's PENDING becomes. A "no" of the mint is an outcome here, not an error. */
async function post(wallet, quote, send) {
  try {
    const { quote: answer, change: proofs } = await wallet.meltProofs(quote, send);
    let state = answer.state;
    while (state === 'PENDING') {
      await new Promise((resolve) => setTimeout(resolve, 500));
      state = (await wallet.checkMeltQuote(quote.quote)).state;
    }
    return { paid: state === 'PAID', returned: proofs };
  } catch (error) {
    if (error.name === 'MintOperationError') return { paid: false, returned: [], refusal: error.code };
    throw new WalletError('OUTCOME_UNKNOWN', error.message, { lost: 0 });
  }
}

/**
 * Pay an invoice: {transaction_id, paid, sources, keep_id, keep_amount, kept_unchanged, change_id, change_amount}.
 *
 * Between `after_swap` and the last write the new proofs are in this process's memory alone.
 */
export async function melt(service, { npub, invoice }, steps) {
  const owner = await service.owner(npub);
  const wallet = await service.wallet();
  const tx = transactionId('melt');
  // 1
  const quote = await wallet.createMeltQuote(invoice);
  const { sources, proofs } = await chooseSources(service, wallet, npub, quote.amount + quote.fee_reserve);
  await refuseDrift(wallet, proofs);
  const ids = sources.map((source) => source.id);
  await steps.at('before_swap', { transaction_id: tx, quote_id: quote.quote, sources: ids });
  // 2
  const { keep, send } = await part(wallet, quote.amount + quote.fee_reserve, proofs);
  const kept = unchanged(keep, proofs);
  await steps.at('after_swap', { transaction_id: tx, sources: ids, keep: sum(keep), send: sum(send), kept_unchanged: kept.length });
  // 3
  const { paid, returned, refusal } = await post(wallet, quote, send);
  await steps.at('after_post', { transaction_id: tx, sources: ids, paid, change: sum(returned) });
  // 4
  const keeps = paid ? keep : [...keep, ...send];
  const current = await sourcesStillUnspent(service, sources, [...keeps, ...returned]);
  await steps.at('after_check', { transaction_id: tx, sources: ids });
  await markSpent(current);
  await steps.at('after_sources', { transaction_id: tx, sources: ids });
  const keepDocument = await stored(service, change(owner, { tx, suffix: 'keep', proofs: keeps }));
  await steps.at('after_keep', { transaction_id: tx, sources: ids });
  const changeDocument = await stored(service, change(owner, { tx, suffix: 'melt_change', proofs: returned }));
  if (!paid) throw new WalletError('PAYMENT_FAILED', 'the mint could not pay', { code: refusal, keep_amount: sum(keeps) });
  return {
    transaction_id: tx,
    paid: quote.amount,
    sources: ids,
    keep_id: keepDocument?.id ?? null,
    keep_amount: sum(keeps),
    kept_unchanged: kept.length,
    change_id: changeDocument?.id ?? null,
    change_amount: sum(returned),
  };
}

/**
 * Hand `amount` to somebody: {transaction_id, token, proofs, sources, sent_id, change_id, change_amount}.
 *
 * `style` old stores `sent` without a status (so it is Mongoose's default, `unspent`), new as `spent`.
 */
export async function send(service, { npub, amount, style = 'new' }, steps) {
  const owner = await service.owner(npub);
  const wallet = await service.wallet();
  const tx = transactionId('sent');
  const { sources, proofs } = await chooseSources(service, wallet, npub, amount);
  await refuseDrift(wallet, proofs);
  const ids = sources.map((source) => source.id);
  await steps.at('before_swap', { transaction_id: tx, sources: ids });
  const parts = await part(wallet, amount, proofs);
  await steps.at('after_swap', { transaction_id: tx, sources: ids, keep: sum(parts.keep), send: sum(parts.send) });
  const current = await sourcesStillUnspent(service, sources, [...parts.keep, ...parts.send]);
  await steps.at('after_check', { transaction_id: tx, sources: ids });
  await markSpent(current);
  await steps.at('after_sources', { transaction_id: tx, sources: ids });
  const sent = await service.models.Token.create({
    npub,
    wallet_id: owner._id,
    proofs: parts.send,
    mint_url: owner.mint_url,
    total_amount: sum(parts.send),
    ...(style === 'old' ? {} : { status: 'spent', spent_at: new Date() }),
    transaction_type: 'sent',
    transaction_id: tx,
    metadata: { source: 'p2p', recipient_info: 'somebody' },
  });
  const rest = await stored(service, change(owner, { tx, suffix: 'change', proofs: parts.keep }));
  return {
    transaction_id: tx,
    token: getEncodedToken({ mint: owner.mint_url, unit: service.unit, proofs: parts.send }),
    proofs: plain(parts.send),
    sources: ids,
    sent_id: sent.id,
    change_id: rest?.id ?? null,
    change_amount: sum(parts.keep),
  };
}

/** Take a token: {transaction_id, id, amount}. */
export async function receive(service, { npub, token }, steps) {
  const owner = await service.owner(npub);
  const wallet = await service.wallet();
  const tx = transactionId('received');
  const proofs = await wallet.receive(getDecodedToken(token));
  await steps.at('after_swap', { transaction_id: tx, send: sum(proofs) });
  const document = await service.models.Token.create({
    npub,
    wallet_id: owner._id,
    proofs,
    mint_url: owner.mint_url,
    total_amount: sum(proofs),
    status: 'unspent',
    transaction_type: 'received',
    transaction_id: tx,
    metadata: { source: 'p2p', encoded_token: token, used_private_key: false },
  });
  return { transaction_id: tx, id: document.id, amount: sum(proofs) };
}
