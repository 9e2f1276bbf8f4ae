/** Reading, saving again, and the odd habits of the programs around a wallet. */

import mongoose from 'mongoose';
import { sum } from './mint.mjs';
import { invalidPaths } from './outcome.mjs';

/** {balance, spendable}: the sum of `unspent`, as it is shown, and without what was sent by old code. */
export async function balance({ models }, { npub }) {
  const documents = await models.Token.find({ npub, status: 'unspent' });
  const own = documents.filter((document) => document.transaction_type !== 'sent');
  const total = (list) => list.reduce((all, document) => all + sum(document.proofs), 0);
  return { balance: total(documents), spendable: total(own) };
}

/** Each document one line, the newest first. */
export async function history({ models }, { npub }) {
  const documents = await models.Token.find({ npub }).sort({ createdAt: -1, _id: -1 });
  return documents.map((document) => ({
    id: document.id,
    type: document.transaction_type,
    status: document.status,
    amount: document.total_amount,
    transaction_id: document.transaction_id,
  }));
}

/** Load, change a field, save with all validators; with `proofs` the proofs are written too, whole, as when one is touched. */
export async function save({ models }, { id, proofs = false }) {
  const document = await models.Token.findById(id).orFail();
  document.metadata.note = `saved at ${new Date().toISOString()}`;
  if (proofs) document.markModified('proofs');
  await document.save();
  return { id, status: document.status };
}

/** Every document of both collections through Mongoose's validators: {checked, invalid: [{id, transaction_id, paths}]}. */
export async function validateAll({ models }) {
  const invalid = [];
  let checked = 0;
  for (const model of [models.Wallet, models.Token]) {
    for await (const document of model.find().cursor()) {
      checked += 1;
      try {
        await document.validate();
      } catch (error) {
        invalid.push({ id: document.id, transaction_id: document.transaction_id ?? null, paths: invalidPaths(error) });
      }
    }
  }
  return { checked, invalid };
}

/** Write a field that nothing depends on. */
export async function touch({ models }, { id }) {
  const answer = await models.Token.updateOne({ _id: id }, { $set: { 'metadata.note': `touched at ${Date.now()}` } });
  return { touched: answer.modifiedCount };
}

/** Delete a document and insert the same again, as a restore or a migration does. */
export async function replace({ models }, { id }) {
  const collection = models.Token.collection;
  const raw = await collection.findOne({ _id: new mongoose.Types.ObjectId(id) });
  await collection.deleteOne({ _id: raw._id });
  await collection.insertOne(raw);
  return { id };
}

export async function remove({ models }, { id }) {
  const answer = await models.Token.deleteOne({ _id: id });
  return { removed: answer.deletedCount };
}

/** A program that rolls `spent` back. */
export async function unspend({ models }, { id }) {
  const answer = await models.Token.updateOne({ _id: id }, { $set: { status: 'unspent', spent_at: null } });
  return { changed: answer.modifiedCount };
}
