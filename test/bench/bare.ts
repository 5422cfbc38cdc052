import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'

/**
 * The least that a reservation could be in this database, as a measure for ours: budget rows, reservations, usage,
 * ledger and outbox without job, price, key, idempotency, day, month or any rule but the limit.
 */
export async function createBareTables(db: Db, budgets: number): Promise<void> {
  await db.sql.unsafe(`
    drop schema if exists bare cascade;
    create schema bare;
    create table bare.budget (id int primary key, limit_micros bigint not null, held bigint not null default 0,
      spent bigint not null default 0, check (held + spent <= limit_micros)) with (fillfactor = 50);
    create table bare.reservation (id text primary key, budget_id int not null, amount bigint not null, state text not null);
    create table bare.usage_event (id text primary key, budget_id int not null, net bigint not null);
    create table bare.entry (id bigint generated always as identity primary key, txn text not null, account text not null, amount bigint not null);
    create table bare.outbox (id bigint generated always as identity primary key, payload text not null);
    insert into bare.budget select i, 1e15 from generate_series(0, ${budgets}) i;
    create function bare.hold_on(p_key int, p_team int, p_org int, p_id text) returns boolean language plpgsql as $$
    begin
      update bare.budget set held = held + 15000 where id = p_key and held + spent + 15000 <= limit_micros;
      if not found then raise exception 'refused'; end if;
      update bare.budget set held = held + 15000 where id = p_team and held + spent + 15000 <= limit_micros;
      if not found then raise exception 'refused'; end if;
      insert into bare.reservation values (p_id, p_org, 15000, 'held');
      update bare.budget set held = held + 15000 where id = p_org and held + spent + 15000 <= limit_micros;
      if not found then raise exception 'refused'; end if;
      return true;
    end $$`)
}

/** Reserve and capture: two commits. */
export async function buyBare(db: Db, budget: number): Promise<void> {
  const id = createId('job')
  await db.sql`
    with held as (
      update bare.budget set held = held + 15000
       where id = ${budget} and held + spent + 15000 <= limit_micros returning id
    ) insert into bare.reservation select ${id}, id, 15000, 'held' from held`
  await db.sql`
    with captured as (
      update bare.reservation set state = 'captured' where id = ${id} and state = 'held' returning budget_id, amount
    ), used as (
      insert into bare.usage_event select ${id}, budget_id, amount from captured
    ), posted as (
      insert into bare.entry (txn, account, amount)
      select ${id}, x.account, x.amount from captured, lateral (values ('receivable', amount), ('revenue', -amount)) as x(account, amount)
    ), told as (
      insert into bare.outbox (payload) select ${id} from captured
    )
    update bare.budget b set held = held - amount, spent = spent + amount from captured where b.id = captured.budget_id`
}

/** Three levels in one call, the org (budget 0) last. */
export async function holdBare(db: Db, key: number, team: number): Promise<void> {
  await db.sql`select bare.hold_on(${key}, ${team}, 0, ${createId('job')})`
}
